//! Walks an expression and gives its value.

use std::cell::Cell;

use dagrun_model::{BinaryOp, Expr, ExprKind, UnaryOp, Value, did_you_mean};

use crate::{Context, ErrorKind, EvalError, MAX_ITEMS, MAX_TEXT, functions, ops};

/// The value of an expression. Errors carry the place of the part that they are about.
pub fn eval(expr: &Expr, ctx: &dyn Context) -> Result<Value, EvalError> {
    Evaluator::new(ctx).value(expr)
}

/// One evaluation, with its budget: nested `format` and `range` must not fill the memory.
pub(crate) struct Evaluator<'a> {
    pub(crate) ctx: &'a dyn Context,
    items: Cell<usize>,
    text: Cell<usize>,
}

/// What a chain of members gives so far: after `.*` all that follows is applied to each item.
enum Chain {
    One(Value),
    Each(Vec<Value>),
}

/// References with more names than this take the slow way.
const LONGEST_PATH: usize = 6;

impl<'a> Evaluator<'a> {
    pub(crate) fn new(ctx: &'a dyn Context) -> Self {
        Self {
            ctx,
            items: Cell::new(MAX_ITEMS),
            text: Cell::new(MAX_TEXT),
        }
    }

    /// The value of an expression.
    pub(crate) fn value(&self, expr: &Expr) -> Result<Value, EvalError> {
        let value = match &expr.kind {
            ExprKind::Literal(value) => return Ok(value.clone()),
            ExprKind::Context(name) => self.ctx.lookup(name),
            ExprKind::Member(..) | ExprKind::Index(..) | ExprKind::Star(..) => {
                return self.chain(expr).map(|chain| match chain {
                    Chain::One(value) => value,
                    Chain::Each(items) => Value::list(items),
                });
            }
            ExprKind::Unary(op, operand) => self.unary(*op, operand),
            ExprKind::Binary(op, left, right) => self.binary(*op, left, right),
            ExprKind::Ternary(condition, yes, no) => {
                let branch = if self.value(condition)?.truthy() {
                    yes
                } else {
                    no
                };
                return self.value(branch);
            }
            ExprKind::Call(function, arguments) => functions::call(self, *function, arguments),
            ExprKind::List(items) => self
                .spend_items(items.len())
                .and_then(|()| self.values(items))
                .map(Value::list),
        };
        value.map_err(|error| error.at(expr.span))
    }

    /// The values of several expressions.
    pub(crate) fn values(&self, exprs: &[Expr]) -> Result<Vec<Value>, EvalError> {
        exprs.iter().map(|expr| self.value(expr)).collect()
    }

    /// Takes `count` list items out of the budget.
    pub(crate) fn spend_items(&self, count: usize) -> Result<(), EvalError> {
        let left = self.items.get().checked_sub(count).ok_or_else(|| {
            EvalError::new(format!(
                "this makes more than {MAX_ITEMS} list items, which is the limit of one expression"
            ))
        })?;
        self.items.set(left);
        Ok(())
    }

    /// Takes `bytes` of text out of the budget.
    pub(crate) fn spend_text(&self, bytes: usize) -> Result<(), EvalError> {
        let left = self.text.get().checked_sub(bytes);
        self.text.set(left.ok_or_else(too_much_text)?);
        Ok(())
    }

    fn unary(&self, op: UnaryOp, operand: &Expr) -> Result<Value, EvalError> {
        let value = self.value(operand)?;
        match op {
            UnaryOp::Not => Ok(Value::Bool(!value.truthy())),
            UnaryOp::Neg => ops::negate(&value),
        }
    }

    fn binary(&self, op: BinaryOp, left: &Expr, right: &Expr) -> Result<Value, EvalError> {
        let first = self.value(left)?;
        match op {
            BinaryOp::And if !first.truthy() => Ok(first),
            BinaryOp::Or if first.truthy() => Ok(first),
            BinaryOp::And | BinaryOp::Or => self.value(right),
            _ => ops::apply(op, &first, &self.value(right)?),
        }
    }

    fn chain(&self, expr: &Expr) -> Result<Chain, EvalError> {
        let chain = match &expr.kind {
            ExprKind::Member(base, name) => match self.direct(expr) {
                Some(value) => value.map(Chain::One),
                None => self
                    .chain(base)?
                    .map(|value| member(value, name, || describe(base))),
            },
            ExprKind::Index(base, index) => {
                let index = self.value(index)?;
                self.chain(base)?
                    .map(|value| item(value, &index, || describe(base)))
            }
            ExprKind::Star(base) => {
                let base_chain = self.chain(base)?;
                self.spread(base_chain)
            }
            _ => self.value(expr).map(Chain::One),
        };
        chain.map_err(|error| error.at(expr.span))
    }

    /// Asks the context for a dotted reference, without building any map.
    fn direct(&self, expr: &Expr) -> Option<Result<Value, EvalError>> {
        let mut path = [""; LONGEST_PATH];
        let length = fill_path(expr, &mut path)?;
        self.ctx.member(&path[..length])
    }

    fn spread(&self, chain: Chain) -> Result<Chain, EvalError> {
        let mut items = Vec::new();
        let mut add = |value: &Value| {
            match value {
                Value::List(list) => items.extend(list.iter().cloned()),
                Value::Map(map) => items.extend(map.values().cloned()),
                other => {
                    return Err(EvalError::new(format!(
                        "`.*` needs a list or a map, and this is {}",
                        article(other.type_name())
                    )));
                }
            }
            Ok(())
        };
        match &chain {
            Chain::One(value) => add(value)?,
            Chain::Each(values) => values.iter().try_for_each(add)?,
        }
        self.spend_items(items.len())?;
        Ok(Chain::Each(items))
    }
}

impl Chain {
    fn map(self, f: impl Fn(&Value) -> Result<Value, EvalError>) -> Result<Self, EvalError> {
        Ok(match self {
            Self::One(value) => Self::One(f(&value)?),
            Self::Each(values) => Self::Each(values.iter().map(f).collect::<Result<_, _>>()?),
        })
    }
}

/// Writes the names of a plain reference into `path` and gives their number.
fn fill_path<'e>(expr: &'e Expr, path: &mut [&'e str; LONGEST_PATH]) -> Option<usize> {
    let (name, position) = match &expr.kind {
        ExprKind::Context(name) => (name, 0),
        ExprKind::Member(base, name) => (name, fill_path(base, path)?),
        _ => return None,
    };
    *path.get_mut(position)? = name;
    Some(position + 1)
}

fn member(base: &Value, name: &str, what: impl Fn() -> String) -> Result<Value, EvalError> {
    match base {
        Value::Map(map) => map.get(name).cloned().ok_or_else(|| {
            let error = EvalError::missing(format!("{} has no member `{name}`", what()));
            match members_help(name, map.keys().map(|key| &**key)) {
                Some(help) => error.help(help),
                None => error,
            }
        }),
        Value::Null => Err(EvalError::missing(format!(
            "{} is null and has no member `{name}`",
            what()
        ))),
        Value::List(_) => Err(EvalError::new(format!(
            "{} is a list and has no member `{name}`",
            what()
        ))
        .help(format!("`.*.{name}` takes it from each item"))),
        other => Err(EvalError::new(format!(
            "{} is {} and has no members",
            what(),
            article(other.type_name())
        ))),
    }
}

fn item(base: &Value, index: &Value, what: impl Fn() -> String) -> Result<Value, EvalError> {
    match (base, index.typed()) {
        (Value::Map(_), Value::Str(name)) => member(base, name, what),
        (Value::List(items), Value::Int(ix)) => usize::try_from(*ix)
            .ok()
            .and_then(|ix| items.get(ix))
            .cloned()
            .ok_or_else(|| {
                let kind = if *ix < 0 {
                    ErrorKind::Invalid
                } else {
                    ErrorKind::Missing
                };
                EvalError {
                    kind,
                    ..EvalError::new(format!(
                        "index {ix} is outside of {}, which has {} items",
                        what(),
                        items.len()
                    ))
                    .help("indices count from 0; the last item is `x[len(x) - 1]`")
                }
            }),
        (Value::Null, _) => Err(EvalError::missing(format!("{} is null", what()))),
        (Value::Map(_), other) => Err(EvalError::new(format!(
            "a map is indexed by a string, not by {}",
            article(other.type_name())
        ))),
        (Value::List(_), other) => Err(EvalError::new(format!(
            "a list is indexed by an integer, not by {}",
            article(other.type_name())
        ))),
        (other, _) => Err(EvalError::new(format!(
            "{} is {} and cannot be indexed",
            what(),
            article(other.type_name())
        ))),
    }
}

/// "did you mean" or the list of what there is, where that is short.
pub(crate) fn members_help<'m>(
    name: &str,
    members: impl Iterator<Item = &'m str> + Clone,
) -> Option<String> {
    if let Some(near) = did_you_mean(name, members.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let known: Vec<_> = members.take(9).map(|m| format!("`{m}`")).collect();
    match known.len() {
        0 | 9.. => None,
        _ => Some(format!("its members are {}", known.join(", "))),
    }
}

/// How a base is called in messages: its path where it has one.
fn describe(expr: &Expr) -> String {
    match expr.as_path() {
        Some(path) => format!("`{}`", path.join(".")),
        None => "the value".into(),
    }
}

/// Text of more than [`MAX_TEXT`] bytes.
pub(crate) fn too_much_text() -> EvalError {
    EvalError::new(format!(
        "this makes more than {} MiB of text, which is the limit of one expression",
        MAX_TEXT >> 20
    ))
}

/// A type's name with its article.
pub(crate) fn article(type_name: &str) -> String {
    match type_name {
        "null" => "null".into(),
        "integer" => "an integer".into(),
        other => format!("a {other}"),
    }
}
