//! Expressions and templates as trees; `dsl` reads them, `expr` evaluates them.

use std::sync::Arc;

use crate::{Span, Value};

/// An expression with the place where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Where it stands.
    pub span: Span,
}

/// The forms of an expression.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// A number, string, boolean or null.
    Literal(Value),
    /// A context such as `params` or `matrix`.
    Context(Arc<str>),
    /// `base.name`, or `base['name']` with a literal string.
    Member(Box<Expr>, Arc<str>),
    /// `base[index]`.
    Index(Box<Expr>, Box<Expr>),
    /// `base.*` or `base[*]`: the values of a map or the items of a list, over which what follows is mapped.
    Star(Box<Expr>),
    /// `!x` or `-x`.
    Unary(UnaryOp, Box<Expr>),
    /// `a op b`; `&&` and `||` give one of their operands and do not evaluate the other.
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    /// `a ? b : c`.
    Ternary(Box<Expr>, Box<Expr>, Box<Expr>),
    /// `function(arguments)`.
    Call(Function, Vec<Expr>),
    /// `[a, b]`.
    List(Vec<Expr>),
}

/// Operators before an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryOp {
    /// `!`
    Not,
    /// `-`
    Neg,
}

/// Operators between operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the operators")]
pub enum BinaryOp {
    Or,
    And,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Add,
    Sub,
    Mul,
    Div,
    Rem,
}

macro_rules! functions {
    ($($variant:ident $name:literal $min:literal $max:expr;)*) => {
        /// The functions of the language.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "the reference describes each function under its name")]
        pub enum Function { $($variant),* }

        impl Function {
            /// All functions, in the order of the reference.
            pub const ALL: &[Function] = &[$(Function::$variant),*];

            /// The name as it is written.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The least and the greatest number of arguments.
            pub fn arity(self) -> (usize, usize) {
                match self { $(Self::$variant => ($min, $max)),* }
            }
        }
    };
}

functions! {
    Success "success" 0 0;
    Failure "failure" 0 0;
    Always "always" 0 0;
    Cancelled "cancelled" 0 0;
    Contains "contains" 2 2;
    StartsWith "startsWith" 2 2;
    EndsWith "endsWith" 2 2;
    Format "format" 1 usize::MAX;
    Join "join" 1 2;
    ToJson "toJSON" 1 1;
    FromJson "fromJSON" 1 1;
    HashFiles "hashFiles" 1 usize::MAX;
    Range "range" 2 3;
    Linspace "linspace" 3 3;
    Logspace "logspace" 3 3;
    Len "len" 1 1;
    Min "min" 1 usize::MAX;
    Max "max" 1 usize::MAX;
    Sum "sum" 1 usize::MAX;
    Mean "mean" 1 usize::MAX;
    Median "median" 1 usize::MAX;
    Round "round" 1 2;
    IsFinite "isfinite" 1 1;
    Default "default" 2 2;
    Basename "basename" 1 1;
}

impl Function {
    /// The function of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|f| f.name() == name)
    }

    /// Whether its value depends on how needed jobs ended: such an `if` is decided when all of them have ended.
    pub fn is_status(self) -> bool {
        matches!(
            self,
            Self::Success | Self::Failure | Self::Always | Self::Cancelled
        )
    }
}

/// The contexts that expressions may name.
pub const CONTEXTS: &[&str] = &[
    "params",
    "env",
    "secrets",
    "matrix",
    "replicate",
    "trial",
    "study",
    "inputs",
    "outputs",
    "needs",
    "jobs",
    "attempt",
    "run",
    "git",
];

impl Expr {
    /// An expression at a place.
    pub fn new(kind: ExprKind, span: Span) -> Self {
        Self { kind, span }
    }

    /// Calls `visit` for this expression and all below it, parents first.
    pub fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        visit(self);
        match &self.kind {
            ExprKind::Literal(_) | ExprKind::Context(_) => {}
            ExprKind::Member(base, _) | ExprKind::Star(base) | ExprKind::Unary(_, base) => {
                base.walk(visit)
            }
            ExprKind::Index(a, b) | ExprKind::Binary(_, a, b) => {
                a.walk(visit);
                b.walk(visit);
            }
            ExprKind::Ternary(a, b, c) => {
                a.walk(visit);
                b.walk(visit);
                c.walk(visit);
            }
            ExprKind::Call(_, items) | ExprKind::List(items) => {
                items.iter().for_each(|item| item.walk(visit))
            }
        }
    }

    /// The path of a plain reference such as `needs.simulate.outputs.series`: its context and member names.
    pub fn as_path(&self) -> Option<Vec<&str>> {
        match &self.kind {
            ExprKind::Context(name) => Some(vec![name]),
            ExprKind::Member(base, name) => {
                let mut path = base.as_path()?;
                path.push(name);
                Some(path)
            }
            _ => None,
        }
    }
}

/// A string with `${{ }}` in it, or a whole value that is one expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// The parts in order. A template without expressions has at most one text part.
    pub parts: Vec<TemplatePart>,
    /// Where it stands.
    pub span: Span,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq)]
pub enum TemplatePart {
    /// Literal text.
    Text(Arc<str>),
    /// `${{ expression }}`.
    Expr(Expr),
}

impl Template {
    /// A template that is plain text.
    pub fn text(text: impl Into<Arc<str>>, span: Span) -> Self {
        Self {
            parts: vec![TemplatePart::Text(text.into())],
            span,
        }
    }

    /// The text, where there is no expression in it.
    pub fn as_text(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [TemplatePart::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The expression, where the template is one `${{ }}` and nothing else: it then keeps the expression's type.
    pub fn as_expr(&self) -> Option<&Expr> {
        match self.parts.as_slice() {
            [TemplatePart::Expr(expr)] => Some(expr),
            _ => None,
        }
    }

    /// The expressions in it.
    pub fn exprs(&self) -> impl Iterator<Item = &Expr> {
        self.parts.iter().filter_map(|part| match part {
            TemplatePart::Expr(expr) => Some(expr),
            TemplatePart::Text(_) => None,
        })
    }
}

/// A value of the file that may have templates at any depth: matrix values, `with`, parameters.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueTemplate {
    /// A value without templates.
    Value(Spanned<Value>),
    /// A string with templates; a single `${{ }}` keeps its type.
    Template(Template),
    /// A list with templates below it.
    List(Vec<ValueTemplate>, Span),
    /// A map with templates below it.
    Map(Vec<(Arc<str>, ValueTemplate)>, Span),
}

use crate::Spanned;

impl ValueTemplate {
    /// Where it stands.
    pub fn span(&self) -> Span {
        match self {
            Self::Value(value) => value.span,
            Self::Template(template) => template.span,
            Self::List(_, span) | Self::Map(_, span) => *span,
        }
    }

    /// Calls `visit` for every expression in it.
    pub fn walk_exprs<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        match self {
            Self::Value(_) => {}
            Self::Template(template) => template.exprs().for_each(visit),
            Self::List(items, _) => items.iter().for_each(|item| item.walk_exprs(visit)),
            Self::Map(entries, _) => entries.iter().for_each(|(_, item)| item.walk_exprs(visit)),
        }
    }
}
