//! Operators.

use std::cmp::Ordering;

use dagrun_model::{BinaryOp, Value};

use crate::{EvalError, eval::article};

/// `-x`.
pub(crate) fn negate(value: &Value) -> Result<Value, EvalError> {
    match value.typed() {
        Value::Int(i) => i.checked_neg().map(Value::Int).ok_or_else(overflow),
        Value::Float(f) => Ok(Value::Float(-f)),
        other => Err(EvalError::new(format!(
            "`-` needs a number, and this is {}",
            article(other.type_name())
        ))),
    }
}

/// A comparison or arithmetic; `&&` and `||` are the evaluator's, because they need not evaluate both sides.
pub(crate) fn apply(op: BinaryOp, left: &Value, right: &Value) -> Result<Value, EvalError> {
    match op {
        BinaryOp::Eq => equal(left, right).map(Value::Bool),
        BinaryOp::Ne => equal(left, right).map(|equal| Value::Bool(!equal)),
        BinaryOp::Lt => order(op, left, right, Ordering::is_lt),
        BinaryOp::Le => order(op, left, right, Ordering::is_le),
        BinaryOp::Gt => order(op, left, right, Ordering::is_gt),
        BinaryOp::Ge => order(op, left, right, Ordering::is_ge),
        _ => arithmetic(op, left, right),
    }
}

/// How an operator is written.
pub(crate) fn symbol(op: BinaryOp) -> &'static str {
    match op {
        BinaryOp::Or => "||",
        BinaryOp::And => "&&",
        BinaryOp::Eq => "==",
        BinaryOp::Ne => "!=",
        BinaryOp::Lt => "<",
        BinaryOp::Le => "<=",
        BinaryOp::Gt => ">",
        BinaryOp::Ge => ">=",
        BinaryOp::Add => "+",
        BinaryOp::Sub => "-",
        BinaryOp::Mul => "*",
        BinaryOp::Div => "/",
        BinaryOp::Rem => "%",
    }
}

fn equal(left: &Value, right: &Value) -> Result<bool, EvalError> {
    let (a, b) = (class(left), class(right));
    if a == b || a == "null" || b == "null" {
        return Ok(left == right);
    }
    let error = EvalError::new(format!("{} is compared with {}", article(a), article(b)));
    Err(match (a, b) {
        ("number", "string") | ("string", "number") => error
            .help("write the number without quotes, or turn it into text with `format('{0}', x)`"),
        ("boolean", "string") | ("string", "boolean") => {
            error.help("write `true` or `false` without quotes")
        }
        _ => error.help("only values of one type can be equal"),
    })
}

/// Types that may be compared with each other have one class.
fn class(value: &Value) -> &'static str {
    match value.typed() {
        Value::Int(_) | Value::Float(_) => "number",
        other => other.type_name(),
    }
}

fn order(
    op: BinaryOp,
    left: &Value,
    right: &Value,
    holds: fn(Ordering) -> bool,
) -> Result<Value, EvalError> {
    let ordering = match (left.typed(), right.typed()) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Str(a), Value::Str(b)) => Some(a.cmp(b)),
        (a, b) => match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => a.partial_cmp(&b),
            _ => return Err(operands(op, a, b, "two numbers or two strings")),
        },
    };
    Ok(Value::Bool(ordering.is_some_and(holds)))
}

fn arithmetic(op: BinaryOp, left: &Value, right: &Value) -> Result<Value, EvalError> {
    let (left, right) = (left.typed(), right.typed());
    let (Some(a), Some(b)) = (left.as_f64(), right.as_f64()) else {
        let error = operands(op, left, right, "two numbers");
        let text = left.as_str().or(right.as_str()).is_some() && op == BinaryOp::Add;
        return Err(if text {
            error.help("texts are joined by `format('{0}{1}', a, b)`")
        } else {
            error
        });
    };
    if matches!(op, BinaryOp::Div | BinaryOp::Rem) && b == 0.0 {
        return Err(EvalError::new("division by zero"));
    }
    if let (Value::Int(a), Value::Int(b)) = (left, right)
        && op != BinaryOp::Div
    {
        let result = match op {
            BinaryOp::Add => a.checked_add(*b),
            BinaryOp::Sub => a.checked_sub(*b),
            BinaryOp::Mul => a.checked_mul(*b),
            _ => a.checked_rem(*b),
        };
        return result.map(Value::Int).ok_or_else(overflow);
    }
    Ok(Value::Float(match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        _ => a % b,
    }))
}

fn operands(op: BinaryOp, left: &Value, right: &Value, wanted: &str) -> EvalError {
    EvalError::new(format!(
        "`{}` needs {wanted}, and these are {} and {}",
        symbol(op),
        article(left.type_name()),
        article(right.type_name())
    ))
}

/// An integer result that does not fit.
pub(crate) fn overflow() -> EvalError {
    EvalError::new("the integer does not fit into 64 bits")
        .help("write one operand as a float, such as `2.0`")
}
