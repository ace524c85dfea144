//! Parameters: declared types, bare defaults, and whether a default fits its declaration.

use dagrun_model::{Diagnostic, Param, ParamType, Span, Spanned, Value};
use indexmap::IndexMap;

use super::{At, Decoder, Entry, View};
use crate::schema;

impl<'a> Decoder<'a, '_> {
    /// The parameters of a file.
    pub(crate) fn params(&mut self, at: At) -> IndexMap<String, Param> {
        let mut params = IndexMap::new();
        for entry in self
            .entries(at, "`params`", "a map of names")
            .unwrap_or_default()
        {
            self.check_name("a parameter", &entry.name, entry.name_span);
            let param = self.param(&entry);
            params.insert(entry.name.into_owned(), param);
        }
        params
    }

    fn param(&mut self, entry: &Entry<'a>) -> Param {
        match self.view(entry.at) {
            View::Map => self.declared(entry),
            View::Null => {
                let diagnostic = self
                    .diagnostic(
                        "empty-value",
                        entry.at,
                        format!(
                            "the parameter `{}` has neither a type nor a default",
                            entry.name
                        ),
                    )
                    .label("nothing here")
                    .help("write a default value, or `{type: string}` for one that must be given");
                let diagnostic = Diagnostic {
                    span: entry.name_span,
                    ..diagnostic
                };
                self.push(diagnostic);
                empty(entry.name_span)
            }
            _ => {
                let value = self.plain(entry.at, "the default of a parameter");
                Param {
                    ty: type_of(&value),
                    default: Some(Spanned::new(value, self.span(entry.at))),
                    ..empty(entry.name_span)
                }
            }
        }
    }

    fn declared(&mut self, entry: &Entry<'a>) -> Param {
        let mut param = empty(entry.name_span);
        let Some(fields) = self.fields(entry.at, &schema::PARAM) else {
            return param;
        };
        if let Some(at) = fields.get("default") {
            let value = self.plain(at, "the default of a parameter");
            param.ty = type_of(&value);
            param.default = Some(Spanned::new(value, self.span(at)));
        }
        let typed = fields
            .get("type")
            .and_then(|at| self.param_type(at, "`type`"));
        param.ty = typed.unwrap_or(param.ty);
        param.min = fields.get("min").and_then(|at| self.number(at, "`min`"));
        param.max = fields.get("max").and_then(|at| self.number(at, "`max`"));
        if let Some(at) = fields.get("choices") {
            let items = self
                .list(at, "`choices`", "a list of values")
                .unwrap_or_default();
            for item in items {
                let value = self.plain(item, "a choice");
                if typed.is_some() && !fits(&value, param.ty) {
                    self.error(
                        "wrong-type",
                        item,
                        format!("this choice is not of the type `{}`", type_name(param.ty)),
                    );
                }
                param.choices.push(value);
            }
        }
        if let Some(text) = fields
            .get("description")
            .and_then(|at| self.literal(at, "`description`", "a text"))
        {
            param.description = text.value;
        }
        self.check_limits(&param, &fields);
        self.check_default(&param, &entry.name);
        param
    }

    fn check_limits(&mut self, param: &Param, fields: &super::Fields<'a>) {
        let limit = fields.get("min").or(fields.get("max"));
        let Some(at) = limit else {
            return;
        };
        if !matches!(param.ty, ParamType::Int | ParamType::Float | ParamType::Any) {
            self.error(
                "wrong-type",
                at,
                format!(
                    "a parameter of the type `{}` has no least or greatest value",
                    type_name(param.ty)
                ),
            );
        } else if let (Some(min), Some(max)) = (param.min, param.max)
            && min > max
        {
            self.error(
                "bad-range",
                at,
                format!("the least value {min} is greater than the greatest value {max}"),
            );
        }
    }

    fn check_default(&mut self, param: &Param, name: &str) {
        let Some(default) = &param.default else {
            return;
        };
        if let Err(reason) = check_param(param, &default.value) {
            self.push(Diagnostic::error(
                "bad-default",
                default.span,
                format!("the default of `{name}` {reason}"),
            ));
        }
    }

    /// The name of a type.
    pub(crate) fn param_type(&mut self, at: At, what: &str) -> Option<ParamType> {
        self.word(at, what, schema::PARAM_TYPES)
            .map(|word| match word {
                "string" => ParamType::String,
                "int" => ParamType::Int,
                "float" | "number" => ParamType::Float,
                "bool" => ParamType::Bool,
                "list" => ParamType::List,
                "map" => ParamType::Map,
                _ => ParamType::Any,
            })
    }
}

fn empty(span: Span) -> Param {
    Param {
        ty: ParamType::Any,
        default: None,
        min: None,
        max: None,
        choices: Vec::new(),
        description: String::new(),
        span,
    }
}

fn type_of(value: &Value) -> ParamType {
    match value.typed() {
        Value::Bool(_) => ParamType::Bool,
        Value::Int(_) => ParamType::Int,
        Value::Float(_) => ParamType::Float,
        Value::Str(_) => ParamType::String,
        Value::List(_) => ParamType::List,
        Value::Map(_) => ParamType::Map,
        _ => ParamType::Any,
    }
}

/// The name of a type as it is written.
pub(crate) fn type_name(ty: ParamType) -> &'static str {
    match ty {
        ParamType::String => "string",
        ParamType::Int => "int",
        ParamType::Float => "float",
        ParamType::Bool => "bool",
        ParamType::List => "list",
        ParamType::Map => "map",
        ParamType::Any => "any",
    }
}

/// Whether a value is of a type. A scalar with a spelling counts as a string too: `version: 3.10`.
pub(crate) fn fits(value: &Value, ty: ParamType) -> bool {
    match ty {
        ParamType::Any => true,
        ParamType::Float => value.as_f64().is_some(),
        ParamType::String => !matches!(value.typed(), Value::Null | Value::List(_) | Value::Map(_)),
        _ => type_of(value) == ty,
    }
}

/// Whether a value may be given to a parameter.
///
/// # Errors
/// Why not, as words that follow the name of the value.
pub fn check_param(param: &Param, value: &Value) -> Result<(), String> {
    if !fits(value, param.ty) {
        return Err(format!(
            "must be of the type `{}`, not a {}",
            type_name(param.ty),
            value.type_name()
        ));
    }
    if let Some(number) = value.as_f64() {
        if param.min.is_some_and(|min| number < min) {
            return Err(format!(
                "must be at least {}",
                param.min.unwrap_or_default()
            ));
        }
        if param.max.is_some_and(|max| number > max) {
            return Err(format!("must be at most {}", param.max.unwrap_or_default()));
        }
    }
    if !param.choices.is_empty() && !param.choices.contains(value) {
        let choices = param
            .choices
            .iter()
            .map(|c| format!("`{c}`"))
            .collect::<Vec<_>>()
            .join(", ");
        return Err(format!("must be one of {choices}"));
    }
    Ok(())
}
