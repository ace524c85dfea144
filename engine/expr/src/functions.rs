//! The functions of the language.

use dagrun_model::{Expr, Function, Value};

use crate::{
    ErrorKind, EvalError,
    eval::{Evaluator, article},
    numbers,
};

/// The value of a call. The number of arguments was checked when the expression was read, and is checked again here.
pub(crate) fn call(
    evaluator: &Evaluator<'_>,
    function: Function,
    arguments: &[Expr],
) -> Result<Value, EvalError> {
    let (least, most) = function.arity();
    if arguments.len() < least || arguments.len() > most {
        return Err(EvalError::new(format!(
            "`{}` does not take {} arguments",
            function.name(),
            arguments.len()
        )));
    }
    if function.is_status() {
        return evaluator.ctx.call_status(function).map(Value::Bool);
    }
    if function == Function::Default {
        return default(evaluator, &arguments[0], &arguments[1]);
    }
    let values = evaluator.values(arguments)?;
    match function {
        Function::HashFiles => evaluator.ctx.hash_files(&values),
        Function::Range => list(
            evaluator,
            numbers::range(&values[0], &values[1], values.get(2)),
        ),
        Function::Linspace => list(
            evaluator,
            numbers::linspace(&values[0], &values[1], &values[2]),
        ),
        Function::Logspace => list(
            evaluator,
            numbers::logspace(&values[0], &values[1], &values[2]),
        ),
        Function::Format => format(evaluator, &values).map(Value::str),
        Function::Join => join(evaluator, &values).map(Value::str),
        Function::ToJson => {
            spend_json(evaluator, &values[0])?;
            Ok(Value::str(values[0].to_json().to_string()))
        }
        _ => plain(function, &values),
    }
}

/// Functions that need nothing but their arguments.
fn plain(function: Function, values: &[Value]) -> Result<Value, EvalError> {
    let name = function.name();
    match function {
        Function::Contains => contains(&values[0], &values[1]),
        Function::StartsWith => {
            let (text, start) = (scalar(name, &values[0])?, scalar(name, &values[1])?);
            Ok(Value::Bool(text.starts_with(&start)))
        }
        Function::EndsWith => {
            let (text, end) = (scalar(name, &values[0])?, scalar(name, &values[1])?);
            Ok(Value::Bool(text.ends_with(&end)))
        }
        Function::FromJson => from_json(&values[0]),
        Function::Len => len(&values[0]),
        Function::Min => numbers::extreme(name, numbers::operands(name, values)?, 1.0),
        Function::Max => numbers::extreme(name, numbers::operands(name, values)?, -1.0),
        Function::Sum => numbers::sum(numbers::operands(name, values)?),
        Function::Mean => numbers::mean(numbers::operands(name, values)?),
        Function::Median => numbers::median(numbers::operands(name, values)?),
        Function::Round => numbers::round(&values[0], values.get(1)),
        Function::IsFinite => is_finite(&values[0]),
        Function::Basename => basename(&values[0]),
        _ => Err(EvalError::new(format!("`{name}` has no value here"))),
    }
}

fn list(
    evaluator: &Evaluator<'_>,
    items: Result<Vec<Value>, EvalError>,
) -> Result<Value, EvalError> {
    let items = items?;
    evaluator.spend_items(items.len())?;
    Ok(Value::list(items))
}

/// `default(a, b)`: `b` where `a` is null or has a member that does not exist.
fn default(evaluator: &Evaluator<'_>, a: &Expr, b: &Expr) -> Result<Value, EvalError> {
    match evaluator.value(a) {
        Ok(value) if !matches!(value.typed(), Value::Null) => Ok(value),
        Ok(_) => evaluator.value(b),
        Err(error) if error.kind == ErrorKind::Missing => evaluator.value(b),
        Err(error) => Err(error),
    }
}

fn contains(whole: &Value, part: &Value) -> Result<Value, EvalError> {
    match whole {
        Value::List(items) => Ok(Value::Bool(items.contains(part))),
        Value::Map(_) => Err(EvalError::new(
            "`contains` needs a string or a list, not a map",
        )),
        text => {
            let (text, part) = (scalar("contains", text)?, scalar("contains", part)?);
            Ok(Value::Bool(text.contains(&part)))
        }
    }
}

/// `format('{0} {{}} {1}', a, b)`, as GitHub's.
fn format(evaluator: &Evaluator<'_>, values: &[Value]) -> Result<String, EvalError> {
    let pattern = scalar("format", &values[0])?;
    evaluator.spend_text(pattern.len())?;
    let mut result = String::with_capacity(pattern.len());
    let mut rest = pattern.as_str();
    while let Some(at) = rest.find(['{', '}']) {
        result.push_str(&rest[..at]);
        let tail = &rest[at..];
        if tail.starts_with("{{") || tail.starts_with("}}") {
            result.push_str(&tail[..1]);
            rest = &tail[2..];
            continue;
        }
        let (index, after) = placeholder(tail)?;
        let value = values.get(index + 1).ok_or_else(|| {
            EvalError::new(format!(
                "`format` has `{{{index}}}` but only {} values",
                values.len() - 1
            ))
            .help("values count from 0")
        })?;
        let text = scalar("format", value)?;
        evaluator.spend_text(text.len())?;
        result.push_str(&text);
        rest = after;
    }
    result.push_str(rest);
    Ok(result)
}

/// The index in `{index}`, and what follows it.
fn placeholder(text: &str) -> Result<(usize, &str), EvalError> {
    text.strip_prefix('{')
        .and_then(|text| text.split_once('}'))
        .and_then(|(index, after)| Some((index.parse::<u16>().ok()?, after)))
        .map(|(index, after)| (usize::from(index), after))
        .ok_or_else(|| {
            EvalError::new("a brace in the text of `format` stands alone")
                .help("`{0}` is the first value; `{{` and `}}` are the braces themselves")
        })
}

fn join(evaluator: &Evaluator<'_>, values: &[Value]) -> Result<String, EvalError> {
    let Value::List(items) = &values[0] else {
        return scalar("join", &values[0]);
    };
    let separator = match values.get(1) {
        Some(separator) => scalar("join", separator)?,
        None => ",".into(),
    };
    let mut text = String::new();
    for (at, item) in items.iter().enumerate() {
        let between = if at == 0 { "" } else { separator.as_str() };
        let item = scalar("join", item)?;
        // Before it is made: a few values that name each other ask for more than any machine has.
        evaluator.spend_text(between.len() + item.len())?;
        text.push_str(between);
        text.push_str(&item);
    }
    Ok(text)
}

/// Takes out of the budget what the JSON of a value has at least.
fn spend_json(evaluator: &Evaluator<'_>, value: &Value) -> Result<(), EvalError> {
    match value.typed() {
        Value::List(items) => items
            .iter()
            .try_for_each(|item| spend_json(evaluator, item)),
        Value::Map(map) => map.iter().try_for_each(|(name, item)| {
            evaluator.spend_text(name.len())?;
            spend_json(evaluator, item)
        }),
        Value::Str(text) => evaluator.spend_text(text.len()),
        _ => evaluator.spend_text(1),
    }
}

fn from_json(value: &Value) -> Result<Value, EvalError> {
    let Value::Str(text) = value else {
        return Err(EvalError::new(format!(
            "`fromJSON` needs a string, not {}",
            article(value.type_name())
        )));
    };
    match serde_json::from_str(text) {
        Ok(json) => Ok(Value::from_json(&json)),
        Err(error) => Err(EvalError::new(format!(
            "`fromJSON` of what is not JSON: {error}"
        ))),
    }
}

fn len(value: &Value) -> Result<Value, EvalError> {
    let length = match value {
        Value::Str(text) => text.chars().count(),
        Value::List(items) => items.len(),
        Value::Map(map) => map.len(),
        other => {
            return Err(EvalError::new(format!(
                "`len` needs a string, list or map, not {}",
                article(other.type_name())
            )));
        }
    };
    Ok(Value::Int(length as i64))
}

fn is_finite(value: &Value) -> Result<Value, EvalError> {
    match value.typed() {
        Value::Null => Ok(Value::Bool(false)),
        Value::Int(_) => Ok(Value::Bool(true)),
        Value::Float(f) => Ok(Value::Bool(f.is_finite())),
        other => Err(EvalError::new(format!(
            "`isfinite` needs a number, not {}",
            article(other.type_name())
        ))),
    }
}

/// The last name of a path, or of each path of a list.
fn basename(value: &Value) -> Result<Value, EvalError> {
    if let Value::List(items) = value {
        return items
            .iter()
            .map(basename)
            .collect::<Result<Vec<_>, _>>()
            .map(Value::list);
    }
    let path = scalar("basename", value)?;
    let trimmed = path.trim_end_matches('/');
    Ok(Value::str(trimmed.rsplit('/').next().unwrap_or(trimmed)))
}

/// The text of a scalar, as it stands in the source.
fn scalar(function: &str, value: &Value) -> Result<String, EvalError> {
    match value.typed() {
        Value::List(_) | Value::Map(_) | Value::Null => Err(EvalError::new(format!(
            "`{function}` needs text or numbers, not {}",
            article(value.type_name())
        ))
        .help(match value {
            Value::List(_) => "`join(list, ' ')` makes text of a list",
            Value::Map(_) => "`toJSON(map)` makes text of a map",
            _ => "`default(x, '')` gives a text where `x` is null",
        })),
        _ => Ok(value.to_text()),
    }
}
