//! What is known of a value before anything runs.

use std::rc::Rc;

use dagrun_model::{ParamType, Value};
use indexmap::IndexMap;

/// The static type of an expression. Integers and floats are one type, as they compare and calculate together.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Type {
    /// Not known, or of several types.
    Any,
    Null,
    Bool,
    Number,
    String,
    List(Rc<Type>),
    Map(Rc<Members>),
}

/// The members of a map.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Members {
    pub(super) known: IndexMap<Rc<str>, Type>,
    /// There may be others.
    pub(super) open: bool,
}

impl Type {
    pub(super) fn list(item: Type) -> Self {
        Self::List(Rc::new(item))
    }

    /// A map with exactly these members.
    pub(super) fn map<N: Into<Rc<str>>>(members: impl IntoIterator<Item = (N, Type)>) -> Self {
        let known = members.into_iter().map(|(n, t)| (n.into(), t)).collect();
        Self::Map(Rc::new(Members { known, open: false }))
    }

    pub(super) fn of_param(ty: ParamType) -> Self {
        match ty {
            ParamType::String => Self::String,
            ParamType::Int | ParamType::Float => Self::Number,
            ParamType::Bool => Self::Bool,
            ParamType::List => Self::list(Self::Any),
            ParamType::Map => Self::Map(Rc::new(Members {
                open: true,
                ..Members::default()
            })),
            ParamType::Any => Self::Any,
        }
    }

    pub(super) fn of_value(value: &Value) -> Self {
        match value.typed() {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::Bool,
            Value::Int(_) | Value::Float(_) => Self::Number,
            Value::Str(_) => Self::String,
            Value::List(items) => Self::list(Self::join_all(items.iter().map(Self::of_value))),
            Value::Map(map) => Self::map(map.iter().map(|(n, v)| (&**n, Self::of_value(v)))),
            Value::Spelled(_) => Self::Any,
        }
    }

    /// The type of what is one of several values; of none, it may be anything.
    pub(super) fn join_all(types: impl IntoIterator<Item = Type>) -> Self {
        types.into_iter().reduce(Self::join).unwrap_or(Self::Any)
    }

    /// The type of what has either type.
    pub(super) fn join(self, other: Type) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::List(a), Self::List(b)) => Self::list((*a).clone().join((*b).clone())),
            (Self::Map(a), Self::Map(b)) => {
                let mut known = a.known.clone();
                for (name, ty) in &b.known {
                    let joined = match known.get(name) {
                        Some(mine) => mine.clone().join(ty.clone()),
                        None => ty.clone(),
                    };
                    known.insert(name.clone(), joined);
                }
                Self::Map(Rc::new(Members {
                    known,
                    open: a.open || b.open,
                }))
            }
            _ => Self::Any,
        }
    }

    /// The type of a member that a map is known to have.
    pub(super) fn member(&self, name: &str) -> Option<&Type> {
        match self {
            Self::Map(members) => members.known.get(name),
            _ => None,
        }
    }

    /// With its article, for messages.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Any => "a value",
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }

    /// Whether values of both may be compared with `==`.
    pub(super) fn comparable(&self, other: &Type) -> bool {
        let loose = |t: &Type| matches!(t, Self::Any | Self::Null);
        loose(self) || loose(other) || std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    pub(super) fn may_be_number(&self) -> bool {
        matches!(self, Self::Any | Self::Number)
    }

    pub(super) fn may_be_string(&self) -> bool {
        matches!(self, Self::Any | Self::String)
    }
}
