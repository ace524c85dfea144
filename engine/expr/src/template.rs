//! Templates: text with expressions in it, values with templates at any depth, and words of an argument list.

use dagrun_model::{Expr, Map, Span, Template, TemplatePart, Value, ValueTemplate};

use crate::{Context, EvalError, MAX_TEXT, eval, eval::too_much_text};

/// The value of a template: a single `${{ }}` keeps its type, all else is text.
pub fn eval_template(template: &Template, ctx: &dyn Context) -> Result<Value, EvalError> {
    match template.parts.as_slice() {
        [] => Ok(Value::str("")),
        [TemplatePart::Text(text)] => Ok(Value::Str(text.clone())),
        [TemplatePart::Expr(expr)] => eval(expr, ctx),
        parts => {
            let mut text = String::with_capacity(64);
            for part in parts {
                match part {
                    TemplatePart::Text(part) => text.push_str(part),
                    TemplatePart::Expr(expr) => match eval(expr, ctx)? {
                        Value::Str(part) => {
                            without_nul(&part).map_err(|error| error.at(expr.span))?;
                            text.push_str(&part);
                        }
                        value => text.push_str(&scalar_text(&value, expr.span)?),
                    },
                }
                if text.len() > MAX_TEXT {
                    return Err(too_much_text().at(template.span));
                }
            }
            Ok(Value::str(text))
        }
    }
}

/// The text of a template: for paths, environment variables and all else that takes no lists.
pub fn eval_text(template: &Template, ctx: &dyn Context) -> Result<String, EvalError> {
    match template.as_expr() {
        Some(expr) => text_of(expr, ctx),
        None => eval_template(template, ctx).map(|value| value.to_text()),
    }
}

/// The value of a template at any depth.
pub fn eval_value(template: &ValueTemplate, ctx: &dyn Context) -> Result<Value, EvalError> {
    match template {
        ValueTemplate::Value(value) => Ok(value.value.clone()),
        ValueTemplate::Template(template) => eval_template(template, ctx),
        ValueTemplate::List(items, _) => items
            .iter()
            .map(|item| eval_value(item, ctx))
            .collect::<Result<Vec<_>, _>>()
            .map(Value::list),
        ValueTemplate::Map(entries, _) => entries
            .iter()
            .map(|(name, item)| Ok((name.clone(), eval_value(item, ctx)?)))
            .collect::<Result<Map, EvalError>>()
            .map(Value::map),
    }
}

/// The words that an item of an argument list gives: a single `${{ }}` that is a list gives one for each of its items,
/// all else exactly one.
pub fn eval_words(template: &Template, ctx: &dyn Context) -> Result<Vec<String>, EvalError> {
    match template.as_expr() {
        Some(expr) => words_of(&eval(expr, ctx)?).map_err(|error| error.at(expr.span)),
        None => Ok(vec![eval_text(template, ctx)?]),
    }
}

fn text_of(expr: &Expr, ctx: &dyn Context) -> Result<String, EvalError> {
    scalar_text(&eval(expr, ctx)?, expr.span)
}

/// The text of a scalar; lists, maps and null have none that anybody would expect.
pub(crate) fn scalar_text(value: &Value, span: Span) -> Result<String, EvalError> {
    let help = match value.typed() {
        Value::List(_) => {
            "a list gives words only where it stands alone; `join(list, ' ')` makes one text of it"
        }
        Value::Map(_) => "name a member of it, such as `.name`, or write `toJSON(...)`",
        Value::Null => "`default(x, '')` gives a text where `x` is null",
        _ => {
            let text = value.to_text();
            return without_nul(&text)
                .map(|()| text)
                .map_err(|error| error.at(span));
        }
    };
    Err(no_text(value).help(help).at(span))
}

/// The words of a value: one for a scalar, one for each item of a list, nested ones too.
pub(crate) fn words_of(value: &Value) -> Result<Vec<String>, EvalError> {
    let mut words = Vec::new();
    collect_words(value, &mut words, &mut 0)?;
    Ok(words)
}

fn collect_words(
    value: &Value,
    words: &mut Vec<String>,
    bytes: &mut usize,
) -> Result<(), EvalError> {
    match value.typed() {
        Value::List(items) => items
            .iter()
            .try_for_each(|item| collect_words(item, words, bytes)),
        Value::Map(_) => {
            Err(no_text(value).help("name a member of it, such as `.name`, or write `toJSON(...)`"))
        }
        Value::Null => Err(no_text(value).help("`default(x, '')` gives a text where `x` is null")),
        _ => {
            let word = value.to_text();
            without_nul(&word)?;
            *bytes += word.len();
            if *bytes > MAX_TEXT {
                return Err(too_much_text());
            }
            words.push(word);
            Ok(())
        }
    }
}

fn no_text(value: &Value) -> EvalError {
    match value.typed() {
        Value::List(_) => EvalError::new("a list stands where one text is wanted"),
        Value::Map(_) => EvalError::new("a map stands where text is wanted"),
        _ => EvalError::new("null stands where text is wanted"),
    }
}

/// A text may not hold a NUL byte: no argument, variable or path can.
fn without_nul(text: &str) -> Result<(), EvalError> {
    if text.contains('\0') {
        return Err(EvalError::new("the value has a NUL byte")
            .help("no argument or environment variable can hold one: write it to a file"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use dagrun_model::{ExprKind, Function, Spanned};

    struct Nothing;

    impl Context for Nothing {
        fn lookup(&self, name: &str) -> Result<Value, EvalError> {
            Err(EvalError::new(format!("no {name}")))
        }
    }

    fn template(parts: Vec<TemplatePart>) -> Template {
        Template {
            parts,
            span: Span::default(),
        }
    }

    fn literal(value: Value) -> TemplatePart {
        TemplatePart::Expr(Expr::new(ExprKind::Literal(value), Span::default()))
    }

    fn text(text: &str) -> TemplatePart {
        TemplatePart::Text(Arc::from(text))
    }

    #[test]
    fn a_single_expression_keeps_its_type_and_spelling() {
        let value = Value::spelled(Value::Float(3.1), "3.10");
        let alone = eval_template(&template(vec![literal(value.clone())]), &Nothing).unwrap();
        assert_eq!((alone.type_name(), &*alone.to_text()), ("float", "3.10"));
        let beside = eval_template(&template(vec![text("v"), literal(value)]), &Nothing).unwrap();
        assert_eq!(beside, Value::str("v3.10"));
    }

    #[test]
    fn a_list_becomes_words_but_not_part_of_a_text() {
        let list = Value::list([Value::Int(1), Value::list([Value::str("a b")])]);
        let alone = template(vec![literal(list.clone())]);
        assert_eq!(eval_words(&alone, &Nothing).unwrap(), ["1", "a b"]);
        let beside = template(vec![text("x="), literal(list)]);
        assert!(eval_words(&beside, &Nothing).is_err());
        assert!(eval_text(&alone, &Nothing).is_err());
    }

    /// Values are shared and texts are not: what names one value many times must not make a text of all of them.
    #[test]
    fn text_has_a_limit_before_it_is_made() {
        let large = Value::str("x".repeat(MAX_TEXT / 4));
        let list = Value::list(vec![large; 100_000]);
        let limited = |error: EvalError| assert!(error.message.contains("16 MiB"), "{error:?}");
        let of = |function, arguments: Vec<Value>| {
            let arguments = arguments
                .into_iter()
                .map(|value| Expr::new(ExprKind::Literal(value), Span::default()))
                .collect();
            let call = ExprKind::Call(function, arguments);
            eval(&Expr::new(call, Span::default()), &Nothing)
        };
        limited(of(Function::Join, vec![list.clone()]).unwrap_err());
        limited(of(Function::ToJson, vec![list.clone()]).unwrap_err());
        let ones = Value::list(vec![Value::Int(1); 100_000]);
        limited(
            of(
                Function::Join,
                vec![ones.clone(), Value::str("y".repeat(1000))],
            )
            .unwrap_err(),
        );
        let joined = of(Function::Join, vec![ones, Value::str("")]).unwrap();
        assert_eq!(joined.to_text().len(), 100_000);

        let Value::List(items) = &list else {
            unreachable!("it was made above")
        };
        limited(eval_words(&template(vec![literal(list.clone())]), &Nothing).unwrap_err());
        let parts = items.iter().map(|item| literal(item.clone())).collect();
        limited(eval_template(&template(parts), &Nothing).unwrap_err());
    }

    #[test]
    fn null_and_maps_are_no_words() {
        for value in [Value::Null, Value::map(Map::new())] {
            let error = eval_words(&template(vec![literal(value)]), &Nothing).unwrap_err();
            assert!(error.help.is_some());
        }
    }

    #[test]
    fn values_keep_their_shape() {
        let tree = ValueTemplate::Map(
            vec![(
                "a".into(),
                ValueTemplate::List(
                    vec![
                        ValueTemplate::Value(Spanned::new(Value::Int(1), Span::default())),
                        ValueTemplate::Template(template(vec![literal(Value::Bool(true))])),
                    ],
                    Span::default(),
                ),
            )],
            Span::default(),
        );
        let value = eval_value(&tree, &Nothing).unwrap();
        assert_eq!(value.to_text(), r#"{"a":[1,true]}"#);
    }
}
