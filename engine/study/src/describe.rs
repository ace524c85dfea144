//! What a definition is, in words that outlive the pipeline file, and what identifies it.

use std::{fmt::Write, sync::Arc};

use dagrun_model::{
    BinaryOp, ContentHash, ContentHasher, Digest, Direction, Expr, ExprKind, Map, SamplerKind,
    UnaryOp, Value,
};
use serde::{Deserialize, Serialize};

use crate::{Definition, Distribution, Goal, Order, Parameter, Space, Stop, exact};

/// A definition without its expressions and limits: enough to read a log, and to say what has changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DefinitionText {
    /// The parameters in order.
    pub space: Vec<ParameterText>,
    /// The name of the sampler.
    pub sampler: String,
    /// Its options as JSON.
    pub options: String,
    /// `async`, `batched: 16` or `lag: 16`.
    pub order: String,
    /// Names of the objectives, and whether they are maximised.
    pub objectives: Vec<(String, bool)>,
}

/// A parameter in words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParameterText {
    /// Its name.
    pub name: String,
    /// Its family: `uniform`, `int`...
    pub family: String,
    /// The numbers of the family: low and high, mean and deviation, alpha and beta; for steps low, step and count.
    #[serde(with = "exact::list")]
    pub numbers: Vec<f64>,
    /// The values of a choice as JSON, with the spelling they have in keys.
    pub choices: Vec<(String, String)>,
    /// Whether steps are integers.
    pub whole: bool,
    /// Decimal places.
    pub digits: Option<u8>,
    /// The condition.
    pub when: Option<String>,
}

impl Definition {
    /// What identifies a study: another space, sampler, order or set of objectives make it another study. Limits (`trials`,
    /// `in_flight`, `stop`) and enqueued points may change while it lives.
    pub fn identity(&self) -> Digest {
        let text = self.text();
        let mut hasher = ContentHasher::new("dagrun.study.v1");
        (text.space.len() as u64).content_hash(&mut hasher);
        for it in &text.space {
            it.feed(&mut hasher);
        }
        for word in [&text.sampler, &text.options, &text.order] {
            word.as_str().content_hash(&mut hasher);
        }
        for (name, maximize) in &text.objectives {
            name.as_str().content_hash(&mut hasher);
            maximize.content_hash(&mut hasher);
        }
        hasher.finish()
    }

    /// The definition in words.
    pub fn text(&self) -> DefinitionText {
        DefinitionText {
            space: self.space.parameters.iter().map(parameter_text).collect(),
            sampler: self.sampler.name().to_owned(),
            options: options_text(&self.options),
            order: order_text(self.order),
            objectives: self
                .objectives
                .iter()
                .map(|it| (it.name.to_string(), it.direction == Direction::Maximize))
                .collect(),
        }
    }
}

impl DefinitionText {
    /// A definition that is good for reading a log and for nothing else: it has no conditions, limits or options.
    pub(crate) fn to_definition(&self, trials: u64) -> Option<Definition> {
        let parameters: Option<Vec<Parameter>> = self.space.iter().map(to_parameter).collect();
        let goals = self.objectives.iter().map(|(name, maximize)| Goal {
            name: name.as_str().into(),
            direction: if *maximize {
                Direction::Maximize
            } else {
                Direction::Minimize
            },
        });
        Some(Definition {
            space: Space {
                parameters: parameters?,
            },
            sampler: SamplerKind::Exec,
            options: Map::new(),
            trials,
            in_flight: None,
            order: Order::Async,
            objectives: goals.collect(),
            stop: Stop::for_trials(trials),
            enqueued: Vec::new(),
        })
    }

    /// What differs from a former definition, a line for each.
    pub(crate) fn changes(&self, former: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        for it in &self.space {
            match former.space.iter().find(|old| old.name == it.name) {
                None => changes.push(format!("parameter `{}` is new", it.name)),
                Some(old) if old != it => changes.push(format!(
                    "parameter `{}` was {}, is {}",
                    it.name,
                    old.words(),
                    it.words()
                )),
                Some(_) => {}
            }
        }
        for old in &former.space {
            if !self.space.iter().any(|it| it.name == old.name) {
                changes.push(format!("parameter `{}` is gone", old.name));
            }
        }
        let mut pair = |what: &str, old: &str, new: &str| {
            if old != new {
                changes.push(format!("{what} was {old}, is {new}"));
            }
        };
        pair("the sampler", &former.sampler, &self.sampler);
        pair("its options", &former.options, &self.options);
        pair("the order", &former.order, &self.order);
        pair(
            "what is sought",
            &goals(&former.objectives),
            &goals(&self.objectives),
        );
        if changes.is_empty() && self.space != former.space {
            changes.push("the parameters stand in another order".to_owned());
        }
        changes
    }
}

fn order_text(order: Order) -> String {
    match order {
        Order::Async => "async".to_owned(),
        Order::Batched(n) => format!("batched: {n}"),
        Order::Lag(lag) => format!("lag: {lag}"),
    }
}

/// The order that [`DefinitionText`] has in words.
pub(crate) fn order_of(text: &str) -> Option<Order> {
    match text.split_once(": ") {
        None => (text == "async").then_some(Order::Async),
        Some(("batched", n)) => n.parse().ok().map(Order::Batched),
        Some(("lag", n)) => n.parse().ok().map(Order::Lag),
        Some(_) => None,
    }
}

/// Where an interpreter stands and how long it may think are no part of what a study is.
fn options_text(options: &Map) -> String {
    let mut options = options.clone();
    options.shift_remove("python");
    options.shift_remove("timeout");
    Value::map(options).to_json().to_string()
}

fn goals(objectives: &[(String, bool)]) -> String {
    let words = objectives.iter().map(|(name, maximize)| {
        let way = if *maximize { "maximize" } else { "minimize" };
        format!("{way} {name}")
    });
    words.collect::<Vec<_>>().join(", ")
}

impl ParameterText {
    fn feed(&self, hasher: &mut ContentHasher) {
        self.name.as_str().content_hash(hasher);
        self.family.as_str().content_hash(hasher);
        (self.numbers.len() as u64).content_hash(hasher);
        self.numbers.iter().for_each(|x| x.content_hash(hasher));
        (self.choices.len() as u64).content_hash(hasher);
        for (json, spelling) in &self.choices {
            json.as_str().content_hash(hasher);
            spelling.as_str().content_hash(hasher);
        }
        self.whole.content_hash(hasher);
        u64::from(self.digits.map_or(0, |digits| digits + 1)).content_hash(hasher);
        self.when.as_deref().unwrap_or("").content_hash(hasher);
    }

    /// As it would be written, nearly.
    fn words(&self) -> String {
        let arguments: Vec<String> = if self.choices.is_empty() {
            self.numbers.iter().map(f64::to_string).collect()
        } else {
            self.choices
                .iter()
                .map(|(_, spelling)| spelling.clone())
                .collect()
        };
        let mut words = format!("{} [{}]", self.family, arguments.join(", "));
        if let Some(digits) = self.digits {
            let _ = write!(words, " with {digits} digits");
        }
        if let Some(when) = &self.when {
            let _ = write!(words, " when {when}");
        }
        words
    }
}

fn parameter_text(it: &Parameter) -> ParameterText {
    let (family, numbers) = match &it.distribution {
        Distribution::Uniform { low, high } => ("uniform", vec![*low, *high]),
        Distribution::LogUniform { low, high } => ("log_uniform", vec![*low, *high]),
        Distribution::Int { low, high } => ("int", vec![*low as f64, *high as f64]),
        Distribution::LogInt { low, high } => ("log_int", vec![*low as f64, *high as f64]),
        Distribution::Choice(_) => ("choice", Vec::new()),
        Distribution::Normal { mean, sd } => ("normal", vec![*mean, *sd]),
        Distribution::Beta { alpha, beta } => ("beta", vec![*alpha, *beta]),
        Distribution::Steps {
            low, step, count, ..
        } => ("steps", vec![*low, *step, f64::from(*count)]),
    };
    let choices = match &it.distribution {
        Distribution::Choice(choices) => choices
            .iter()
            .map(|choice| (choice.to_json().to_string(), choice.to_text()))
            .collect(),
        _ => Vec::new(),
    };
    ParameterText {
        name: it.name.to_string(),
        family: family.to_owned(),
        numbers,
        choices,
        whole: matches!(it.distribution, Distribution::Steps { whole: true, .. }),
        digits: it.digits,
        when: it.when.as_ref().map(expr_text),
    }
}

fn to_parameter(text: &ParameterText) -> Option<Parameter> {
    let number = |at: usize| text.numbers.get(at).copied();
    let (first, second) = (number(0), number(1));
    let distribution = match text.family.as_str() {
        "uniform" => Distribution::Uniform {
            low: first?,
            high: second?,
        },
        "log_uniform" => Distribution::LogUniform {
            low: first?,
            high: second?,
        },
        "int" => Distribution::Int {
            low: first? as i64,
            high: second? as i64,
        },
        "log_int" => Distribution::LogInt {
            low: first? as i64,
            high: second? as i64,
        },
        "choice" => Distribution::Choice(
            text.choices
                .iter()
                .map(|(json, spelling)| {
                    let value = Value::from_json(&serde_json::from_str(json).ok()?);
                    Some(match value {
                        Value::List(_) | Value::Map(_) => value,
                        scalar => Value::spelled(scalar, spelling),
                    })
                })
                .collect::<Option<Arc<[Value]>>>()?,
        ),
        "normal" => Distribution::Normal {
            mean: first?,
            sd: second?,
        },
        "beta" => Distribution::Beta {
            alpha: first?,
            beta: second?,
        },
        "steps" => Distribution::Steps {
            low: first?,
            step: second?,
            count: number(2)? as u32,
            whole: text.whole,
        },
        _ => return None,
    };
    Some(Parameter {
        name: text.name.as_str().into(),
        distribution,
        digits: text.digits,
        when: None,
    })
}

/// An expression as text, with every operation in brackets: equal texts are equal expressions.
pub(crate) fn expr_text(expr: &Expr) -> String {
    let list = |items: &[Expr]| items.iter().map(expr_text).collect::<Vec<_>>().join(", ");
    match &expr.kind {
        ExprKind::Literal(value) => match value {
            Value::Spelled(_) => value.to_text(),
            _ => value.to_json().to_string(),
        },
        ExprKind::Context(name) => name.to_string(),
        ExprKind::Member(base, name) => format!("{}.{name}", expr_text(base)),
        ExprKind::Index(base, index) => format!("{}[{}]", expr_text(base), expr_text(index)),
        ExprKind::Star(base) => format!("{}.*", expr_text(base)),
        ExprKind::Unary(UnaryOp::Not, x) => format!("!{}", expr_text(x)),
        ExprKind::Unary(UnaryOp::Neg, x) => format!("-{}", expr_text(x)),
        ExprKind::Binary(op, a, b) => {
            format!("({} {} {})", expr_text(a), operator(*op), expr_text(b))
        }
        ExprKind::Ternary(a, b, c) => {
            format!("({} ? {} : {})", expr_text(a), expr_text(b), expr_text(c))
        }
        ExprKind::Call(function, items) => format!("{}({})", function.name(), list(items)),
        ExprKind::List(items) => format!("[{}]", list(items)),
    }
}

fn operator(op: BinaryOp) -> &'static str {
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
