//! Parameters: defaults and overrides, typed and checked, with where each value came from.

use std::fmt;

use dagrun_model::{Diagnostic, Param, ParamType, Pipeline, Span, Value, did_you_mean};
use indexmap::IndexMap;

/// Where the value of a parameter came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The default in the pipeline.
    Default,
    /// A file of parameters.
    File(String),
    /// The command line.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => f.write_str(path),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

/// A parameter with its final value.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedParam {
    /// The value, of the declared type.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
}

/// Resolves all parameters in declared order; what is wrong is appended to `errors`.
pub(crate) fn resolve(
    pipeline: &Pipeline,
    given: &[(String, Value, Origin)],
    errors: &mut Vec<Diagnostic>,
) -> IndexMap<String, ResolvedParam> {
    for (name, _, origin) in given {
        if !pipeline.params.contains_key(name) {
            errors.push(unknown(pipeline, name, origin));
        }
    }
    let mut resolved = IndexMap::new();
    for (name, param) in &pipeline.params {
        let over = given.iter().rev().find(|(given, ..)| given == name);
        let (value, origin, span) = match (over, &param.default) {
            (Some((_, value, origin)), _) => (value, origin.clone(), param.span),
            (None, Some(default)) => (&default.value, Origin::Default, default.span),
            (None, None) => {
                errors.push(
                    Diagnostic::error(
                        "missing-param",
                        param.span,
                        format!("parameter `{name}` has no value"),
                    )
                    .help(format!(
                        "give it with `-p {name}=VALUE`, or write a `default`"
                    )),
                );
                continue;
            }
        };
        match typed(param, value).and_then(|value| check(param, &value).map(|()| value)) {
            Ok(value) => {
                resolved.insert(name.clone(), ResolvedParam { value, origin });
            }
            Err(problem) => {
                errors.push(bad_value(name, &origin, span, value, &problem));
            }
        }
    }
    resolved
}

fn unknown(pipeline: &Pipeline, name: &str, origin: &Origin) -> Diagnostic {
    let error = Diagnostic::error(
        "unknown-param",
        Span::COMMAND_LINE,
        format!("the pipeline has no parameter `{name}` ({origin})"),
    );
    let names = || pipeline.params.keys().map(String::as_str);
    match did_you_mean(name, names()) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None if pipeline.params.is_empty() => error.help("it declares no `params`"),
        None => error.help(format!(
            "its parameters are {}",
            names().collect::<Vec<_>>().join(", ")
        )),
    }
}

fn bad_value(name: &str, origin: &Origin, span: Span, value: &Value, problem: &str) -> Diagnostic {
    Diagnostic::error(
        "bad-param",
        span,
        format!("parameter `{name}` cannot be `{value}` ({origin}): {problem}"),
    )
    .help(format!("give another value with `-p {name}=VALUE`"))
}

/// The value as one of the declared type: text is read as a number or boolean where that is declared.
fn typed(param: &Param, value: &Value) -> Result<Value, String> {
    let text = value.as_str();
    let wrong = |expected: &str| Err(format!("it must be {expected}"));
    match param.ty {
        ParamType::Any => Ok(value.clone()),
        ParamType::String => match value {
            Value::List(_) | Value::Map(_) => wrong("a string"),
            scalar => Ok(Value::str(scalar.to_text())),
        },
        ParamType::Int => match text {
            Some(text) => match text.parse() {
                Ok(int) => Ok(Value::spelled(Value::Int(int), text)),
                Err(_) => wrong("an integer"),
            },
            None if value.as_i64().is_some() => Ok(value.clone()),
            None => wrong("an integer"),
        },
        ParamType::Float => match text {
            Some(text) => match (text.parse::<i64>(), text.parse::<f64>()) {
                (Ok(int), _) => Ok(Value::spelled(Value::Int(int), text)),
                (_, Ok(float)) if float.is_finite() => {
                    Ok(Value::spelled(Value::Float(float), text))
                }
                _ => wrong("a finite number"),
            },
            None if value.as_f64().is_some_and(f64::is_finite) => Ok(value.clone()),
            None => wrong("a finite number"),
        },
        ParamType::Bool => match (text, value.as_bool()) {
            (Some("true"), _) => Ok(Value::Bool(true)),
            (Some("false"), _) => Ok(Value::Bool(false)),
            (None, Some(bool)) => Ok(Value::Bool(bool)),
            _ => wrong("`true` or `false`"),
        },
        ParamType::List => match value {
            Value::List(_) => Ok(value.clone()),
            _ => wrong("a list"),
        },
        ParamType::Map => match value {
            Value::Map(_) => Ok(value.clone()),
            _ => wrong("a map"),
        },
    }
}

fn check(param: &Param, value: &Value) -> Result<(), String> {
    if let Some(number) = value.as_f64() {
        if param.min.is_some_and(|min| number < min) {
            return Err(format!(
                "the least allowed is {}",
                param.min.unwrap_or_default()
            ));
        }
        if param.max.is_some_and(|max| number > max) {
            return Err(format!(
                "the greatest allowed is {}",
                param.max.unwrap_or_default()
            ));
        }
    }
    if !param.choices.is_empty() && !param.choices.contains(value) {
        let choices: Vec<_> = param.choices.iter().map(Value::to_text).collect();
        return Err(format!("it must be one of {}", choices.join(", ")));
    }
    Ok(())
}
