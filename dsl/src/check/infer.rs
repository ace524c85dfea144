//! The types of expressions, with an error for each name that does not exist and each operation that cannot work.

use dagrun_expr::{Context, EvalError, ReferenceKind, eval, references};
use dagrun_model::{BinaryOp, Diagnostic, Expr, ExprKind, Function, Span, UnaryOp, Value};

use super::{
    Checker, MAX_ERRORS,
    names::{Unknown, name_span},
    scope::{Place, is_context},
    types::Type,
};

/// A part of a chain of members.
struct Segment<'e> {
    step: Step<'e>,
    /// The place of the chain up to here.
    span: Span,
    /// The place of what it is taken from.
    base: Span,
}

enum Step<'e> {
    Name(&'e str),
    Index(&'e Expr),
    Star,
}

/// Constant expressions have no contexts.
struct Constant;

impl Context for Constant {
    fn lookup(&self, name: &str) -> Result<Value, EvalError> {
        Err(EvalError::new(format!("`{name}` is not constant")))
    }
}

impl Checker<'_> {
    /// The type of an expression at a place; errors in it are reported.
    pub(super) fn infer(&mut self, expr: &Expr, place: Place) -> Type {
        if self.errors.len() >= MAX_ERRORS {
            return Type::Any;
        }
        if let Some(ty) = self.constant(expr) {
            return ty;
        }
        match &expr.kind {
            ExprKind::Literal(value) => Type::of_value(value),
            ExprKind::Context(_)
            | ExprKind::Member(..)
            | ExprKind::Index(..)
            | ExprKind::Star(_) => self.chain(expr, place),
            ExprKind::Unary(UnaryOp::Not, operand) => {
                self.infer(operand, place);
                Type::Bool
            }
            ExprKind::Unary(UnaryOp::Neg, operand) => {
                let ty = self.infer(operand, place);
                if !ty.may_be_number() {
                    self.wrong_type(
                        operand.span,
                        format!("`-` needs a number, and this is {}", ty.name()),
                    );
                }
                Type::Number
            }
            ExprKind::Binary(op, left, right) => self.binary(*op, expr.span, left, right, place),
            ExprKind::Ternary(condition, yes, no) => {
                self.infer(condition, place);
                let yes = self.infer(yes, place);
                yes.join(self.infer(no, place))
            }
            ExprKind::Call(function, arguments) => {
                self.call(*function, expr.span, arguments, place)
            }
            ExprKind::List(items) => {
                let types: Vec<_> = items.iter().map(|item| self.infer(item, place)).collect();
                Type::list(Type::join_all(types))
            }
        }
    }

    /// The type of an expression without names, which is evaluated here and now.
    fn constant(&mut self, expr: &Expr) -> Option<Type> {
        let interesting = matches!(
            expr.kind,
            ExprKind::Unary(..) | ExprKind::Binary(..) | ExprKind::Ternary(..) | ExprKind::Call(..)
        );
        if !interesting || self.evaluation == 0 || depends(expr) {
            return None;
        }
        // Once it is spent, no more is looked for: `depends` would walk each expression at each of its levels.
        self.evaluation = self.evaluation.saturating_sub(cost(expr));
        Some(match eval(expr, &Constant) {
            Ok(value) => Type::of_value(&value),
            Err(error) => {
                let mut diagnostic = error.to_diagnostic(expr.span);
                diagnostic.code = "type";
                self.report(diagnostic);
                Type::Any
            }
        })
    }

    fn binary(
        &mut self,
        op: BinaryOp,
        span: Span,
        left: &Expr,
        right: &Expr,
        place: Place,
    ) -> Type {
        let a = self.infer(left, place);
        let b = self.infer(right, place);
        match op {
            BinaryOp::Or | BinaryOp::And => a.join(b),
            BinaryOp::Eq | BinaryOp::Ne => {
                if !a.comparable(&b) {
                    self.incomparable(span, &a, &b);
                }
                Type::Bool
            }
            BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge => {
                let works = (a.may_be_number() && b.may_be_number())
                    || (a.may_be_string() && b.may_be_string());
                if !works {
                    let words = format!(
                        "{} and {} have no order; two numbers or two strings have",
                        a.name(),
                        b.name()
                    );
                    self.wrong_type(span, words);
                }
                Type::Bool
            }
            _ => {
                let wrong = [(&a, left), (&b, right)]
                    .into_iter()
                    .find(|(ty, _)| !ty.may_be_number());
                if let Some((ty, operand)) = wrong {
                    self.no_number(operand.span, ty, op);
                }
                Type::Number
            }
        }
    }

    fn incomparable(&mut self, span: Span, a: &Type, b: &Type) {
        let words = format!("{} is never equal to {}", a.name(), b.name());
        let help = match (a, b) {
            (Type::Number, Type::String) | (Type::String, Type::Number) => {
                "write the number without quotes, or turn it into text with `format('{0}', x)`"
            }
            (Type::Bool, Type::String) | (Type::String, Type::Bool) => {
                "write `true` or `false` without quotes"
            }
            (Type::List(_), _) | (_, Type::List(_)) => "`contains(list, item)` looks for an item",
            _ => "only values of one type can be equal",
        };
        self.report(Diagnostic::error("type", span, words).help(help));
    }

    fn no_number(&mut self, span: Span, ty: &Type, op: BinaryOp) {
        let words = format!("arithmetic needs numbers, and this is {}", ty.name());
        let error = Diagnostic::error("type", span, words);
        self.report(match (ty, op) {
            (Type::String, BinaryOp::Add) => {
                error.help("texts are joined by `format('{0}{1}', a, b)`")
            }
            (Type::List(_), _) => error.help("`sum(list)` adds up its items"),
            _ => error,
        });
    }

    fn call(&mut self, function: Function, span: Span, arguments: &[Expr], place: Place) -> Type {
        use Function as F;
        if function.is_status() && !place.has_status() {
            self.status_outside(function, span, place);
        }
        if function == F::HashFiles {
            self.hash_files(span, arguments, place);
        }
        let types: Vec<Type> = arguments.iter().map(|a| self.infer(a, place)).collect();
        let name = function.name();
        let mut want = |ix: usize, works: fn(&Type) -> bool, wanted: &str| {
            if let (Some(ty), Some(argument)) = (types.get(ix), arguments.get(ix))
                && !works(ty)
            {
                let words = format!("`{name}` needs {wanted}, and this is {}", ty.name());
                self.wrong_type(argument.span, words);
            }
        };
        let text = |t: &Type| !matches!(t, Type::List(_) | Type::Map(_) | Type::Null);
        match function {
            F::Success | F::Failure | F::Always | F::Cancelled => Type::Bool,
            F::Contains => {
                want(0, |t| !matches!(t, Type::Map(_)), "a string or a list");
                Type::Bool
            }
            F::StartsWith | F::EndsWith => {
                want(0, text, "a string");
                want(1, text, "a string");
                Type::Bool
            }
            F::IsFinite => {
                want(0, |t| t.may_be_number() || *t == Type::Null, "a number");
                Type::Bool
            }
            F::Format => {
                (0..arguments.len()).for_each(|ix| want(ix, text, "text or numbers"));
                Type::String
            }
            F::Join => {
                want(0, |t| !matches!(t, Type::Map(_)), "a list");
                want(1, text, "a string");
                Type::String
            }
            F::Basename => {
                want(0, |t| !matches!(t, Type::Map(_)), "a path");
                types.into_iter().next().unwrap_or(Type::Any)
            }
            F::ToJson | F::HashFiles => Type::String,
            F::FromJson => {
                want(0, Type::may_be_string, "a string");
                Type::Any
            }
            F::Range | F::Linspace | F::Logspace => {
                (0..arguments.len()).for_each(|ix| want(ix, Type::may_be_number, "numbers"));
                Type::list(Type::Number)
            }
            F::Round => {
                (0..arguments.len()).for_each(|ix| want(ix, Type::may_be_number, "a number"));
                Type::Number
            }
            F::Len => {
                let sized = |t: &Type| !matches!(t, Type::Number | Type::Bool | Type::Null);
                want(0, sized, "a string, list or map");
                Type::Number
            }
            F::Min | F::Max | F::Sum | F::Mean | F::Median => {
                let single = arguments.len() == 1;
                for ix in 0..arguments.len() {
                    if single {
                        want(ix, numbers, "numbers");
                    } else {
                        want(ix, Type::may_be_number, "numbers");
                    }
                }
                Type::Number
            }
            F::Default => {
                let mut types = types.into_iter();
                let first = types.next().unwrap_or(Type::Any);
                let second = types.next().unwrap_or(Type::Any);
                if first == Type::Null {
                    second
                } else {
                    first.join(second)
                }
            }
        }
    }

    fn status_outside(&mut self, function: Function, span: Span, place: Place) {
        let words = format!("`{}()` has no value {}", function.name(), place.name());
        let help = match place {
            Place::StepCondition => {
                "a step runs where those before it have succeeded; what must run after a failure is a job of its own with `if: failure()`"
            }
            _ => "status functions stand in the `if` of a job",
        };
        self.report(Diagnostic::error("status-function", span, words).help(help));
    }

    fn hash_files(&mut self, span: Span, arguments: &[Expr], place: Place) {
        if !place.has_hash_files() {
            let words = format!("`hashFiles` has no value {}", place.name());
            self.report(Diagnostic::error("context", span, words).help("use it in `run` or `env`"));
        }
        for reference in arguments.iter().flat_map(references) {
            use ReferenceKind as Kind;
            if !matches!(
                reference.kind,
                Kind::Param(_) | Kind::Matrix(_) | Kind::Replicate(_)
            ) {
                let error = Diagnostic::error(
                    "context",
                    reference.span,
                    "the files of `hashFiles` must be known when the plan is made",
                );
                self.report(
                    error.help("its arguments can only use `params`, `matrix` and `replicate`"),
                );
            }
        }
    }

    /// A reference, or members of any other value.
    fn chain(&mut self, expr: &Expr, place: Place) -> Type {
        let (root, segments) = segments(expr);
        let (mut ty, context) = match &root.kind {
            ExprKind::Context(name) => {
                match self.context(name, root.span, expr.span, &segments, place) {
                    Some(ty) => (ty, Some(&**name)),
                    None => (Type::Any, None),
                }
            }
            _ => (self.infer(root, place), None),
        };
        let mut path: Vec<&str> = Vec::new();
        let mut each = false;
        for (depth, segment) in segments.iter().enumerate() {
            ty = match segment.step {
                Step::Name("list") if context == Some("inputs") && depth == 1 => Type::String,
                Step::Name(name) => {
                    let unknown = Unknown {
                        context,
                        path: &path,
                        name,
                        each,
                    };
                    self.member(&ty, unknown, segment)
                }
                Step::Index(index) => {
                    let index_type = self.infer(index, place);
                    self.item(&ty, &index_type, index.span, segment.base)
                }
                Step::Star => {
                    each = true;
                    self.spread(&ty, segment.base)
                }
            };
            path.push(match segment.step {
                Step::Name(name) => name,
                _ => "*",
            });
        }
        if each { Type::list(ty) } else { ty }
    }

    fn member(&mut self, ty: &Type, unknown: Unknown<'_>, segment: &Segment<'_>) -> Type {
        let name = unknown.name;
        match ty {
            Type::Map(members) => match members.known.get(name) {
                Some(ty) => ty.clone(),
                None if members.open => Type::Any,
                None => {
                    let span = name_span(segment.base, segment.span, name);
                    self.unknown_member(unknown, members, span);
                    Type::Any
                }
            },
            Type::Any | Type::Null => Type::Any,
            Type::List(_) => {
                let words = format!("this is a list and has no member `{name}`");
                let help = format!("`.*.{name}` takes it from each item");
                self.report(Diagnostic::error("type", segment.base, words).help(help));
                Type::Any
            }
            other => {
                let words = format!("this is {} and has no member `{name}`", other.name());
                self.wrong_type(segment.base, words);
                Type::Any
            }
        }
    }

    fn item(&mut self, ty: &Type, index: &Type, index_span: Span, base: Span) -> Type {
        match ty {
            Type::List(item) => {
                if !index.may_be_number() {
                    let words = format!("a list is indexed by an integer, not by {}", index.name());
                    self.wrong_type(index_span, words);
                }
                (**item).clone()
            }
            Type::Map(members) => {
                if !index.may_be_string() {
                    let words = format!("a map is indexed by a string, not by {}", index.name());
                    self.wrong_type(index_span, words);
                }
                if members.open {
                    Type::Any
                } else {
                    Type::join_all(members.known.values().cloned())
                }
            }
            Type::Any | Type::Null => Type::Any,
            other => {
                self.wrong_type(
                    base,
                    format!("this is {} and cannot be indexed", other.name()),
                );
                Type::Any
            }
        }
    }

    fn spread(&mut self, ty: &Type, base: Span) -> Type {
        match ty {
            Type::List(item) => (**item).clone(),
            Type::Map(members) if !members.open => Type::join_all(members.known.values().cloned()),
            Type::Map(_) | Type::Any | Type::Null => Type::Any,
            other => {
                self.wrong_type(
                    base,
                    format!("`.*` needs a list or a map, and this is {}", other.name()),
                );
                Type::Any
            }
        }
    }

    /// The type of a context, or `None` after an error about it.
    fn context(
        &mut self,
        name: &str,
        root: Span,
        span: Span,
        segments: &[Segment<'_>],
        place: Place,
    ) -> Option<Type> {
        let first = match segments.first().map(|s| &s.step) {
            Some(Step::Name(name)) => Some(*name),
            _ => None,
        };
        if !is_context(name) {
            self.unknown_context(name, root, place);
            return None;
        }
        if name == "secrets" {
            self.secret(first, span);
            return None;
        }
        if let Some(help) = place.refuses(name) {
            let words = format!("`{name}` has no value {}", place.name());
            self.report(Diagnostic::error("context", span, words).help(help));
            return None;
        }
        if name == "study" {
            return self.study(first, span, place);
        }
        self.context_type(name, span, place)
    }

    pub(super) fn wrong_type(&mut self, span: Span, words: String) {
        self.report(Diagnostic::error("type", span, words));
    }
}

/// What an evaluation takes out of the budget: most for functions that may make a million items.
fn cost(expr: &Expr) -> usize {
    let mut cost = 1;
    expr.walk(&mut |expr| {
        let long = matches!(
            expr.kind,
            ExprKind::Call(Function::Range | Function::Linspace | Function::Logspace, _)
        );
        cost += if long { 100 } else { 1 };
    });
    cost
}

/// Whether an expression has names in it. Stops at the first one.
fn depends(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Literal(_) => false,
        ExprKind::Context(_) => true,
        ExprKind::Member(base, _) | ExprKind::Star(base) | ExprKind::Unary(_, base) => {
            depends(base)
        }
        ExprKind::Index(a, b) | ExprKind::Binary(_, a, b) => depends(a) || depends(b),
        ExprKind::Ternary(a, b, c) => depends(a) || depends(b) || depends(c),
        ExprKind::Call(function, items) => {
            function.is_status() || *function == Function::HashFiles || items.iter().any(depends)
        }
        ExprKind::List(items) => items.iter().any(depends),
    }
}

/// A list of numbers, or a number.
fn numbers(ty: &Type) -> bool {
    match ty {
        Type::List(item) => item.may_be_number(),
        other => other.may_be_number(),
    }
}

fn segments(expr: &Expr) -> (&Expr, Vec<Segment<'_>>) {
    let mut segments = Vec::new();
    let mut root = expr;
    loop {
        let (base, step) = match &root.kind {
            ExprKind::Member(base, name) => (base, Step::Name(name)),
            ExprKind::Index(base, index) => (base, Step::Index(index)),
            ExprKind::Star(base) => (base, Step::Star),
            _ => break,
        };
        segments.push(Segment {
            step,
            span: root.span,
            base: base.span,
        });
        root = base;
    }
    segments.reverse();
    (root, segments)
}
