//! Tokens to trees: a precedence loop.

use std::{ops::Range, sync::Arc};

use dagrun_model::{
    BinaryOp, Diagnostic, Expr, ExprKind, Function, Span, UnaryOp, Value, did_you_mean,
};

use super::{
    MAX_HEIGHT, MAX_NESTING,
    lexer::{Token, TokenKind},
};
use crate::text::SourceText;

const SYNTAX: &str = "expression-syntax";
/// What people look for and the language leaves to programs.
const MATHEMATICS: [&str; 8] = ["abs", "sqrt", "log", "log10", "exp", "pow", "std", "var"];

/// Reads one expression out of all `tokens`; `end` is where they end in the text.
pub(super) fn parse(
    text: &SourceText,
    tokens: Vec<Token<'_>>,
    end: usize,
    out: &mut Vec<Diagnostic>,
) -> Option<Expr> {
    let before = out.len();
    let mut parser = Parser {
        text,
        tokens,
        at: 0,
        end,
        nesting: 0,
        out,
    };
    let tree = parser.whole();
    if parser.out.len() > before {
        return None;
    }
    tree.map(|tree| tree.expr)
}

struct Parser<'t> {
    text: &'t SourceText,
    tokens: Vec<Token<'t>>,
    at: usize,
    end: usize,
    nesting: usize,
    out: &'t mut Vec<Diagnostic>,
}

/// An expression, its byte range in the text and the height of its tree.
struct Tree {
    expr: Expr,
    range: Range<usize>,
    height: usize,
}

impl<'t> Parser<'t> {
    fn whole(&mut self) -> Option<Tree> {
        if self.tokens.is_empty() {
            let span = self.text.span_of(self.end..self.end);
            self.out.push(
                Diagnostic::error(SYNTAX, span, "the expression is empty")
                    .label("expected an expression"),
            );
            return None;
        }
        let tree = self.ternary()?;
        if self.peek().is_some() {
            self.unexpected("an operator or the end of the expression");
            return None;
        }
        Some(tree)
    }

    /// `a ? b : c`, the loosest of all.
    fn ternary(&mut self) -> Option<Tree> {
        self.nested(|parser| {
            let condition = parser.binary(0)?;
            let Some(question) = parser.take("?") else {
                return Some(condition);
            };
            let yes = parser.ternary()?;
            parser.expect_close(":", question, "`:` of the condition")?;
            let no = parser.ternary()?;
            let range = condition.range.start..no.range.end;
            let height = condition.height.max(yes.height).max(no.height);
            parser.node(
                ExprKind::Ternary(
                    Box::new(condition.expr),
                    Box::new(yes.expr),
                    Box::new(no.expr),
                ),
                range,
                height,
            )
        })
    }

    /// Operators of at least the precedence `least`, to the left.
    fn binary(&mut self, least: u8) -> Option<Tree> {
        let mut left = self.unary()?;
        while let Some((op, precedence)) = self.peek_operator()
            && precedence >= least
        {
            self.at += 1;
            let right = self.binary(precedence + 1)?;
            let range = left.range.start..right.range.end;
            let height = left.height.max(right.height);
            let kind = ExprKind::Binary(op, Box::new(left.expr), Box::new(right.expr));
            left = self.node(kind, range, height)?;
        }
        Some(left)
    }

    fn unary(&mut self) -> Option<Tree> {
        if let Some(range) = self.take("!") {
            return self.operator_before(UnaryOp::Not, range);
        }
        let Some(minus) = self.take("-") else {
            return self.postfix();
        };
        if let Some(Token {
            kind: TokenKind::Number(digits),
            range,
        }) = self.peek().cloned()
        {
            self.at += 1;
            let range = minus.start..range.end;
            let value = self.number(&format!("-{digits}"), range.clone())?;
            return self.node(ExprKind::Literal(value), range, 0);
        }
        self.operator_before(UnaryOp::Neg, minus)
    }

    fn operator_before(&mut self, op: UnaryOp, sign: Range<usize>) -> Option<Tree> {
        let operand = self.nested(Self::unary)?;
        let range = sign.start..operand.range.end;
        self.node(
            ExprKind::Unary(op, Box::new(operand.expr)),
            range,
            operand.height,
        )
    }

    /// Members, indices and stars behind a primary.
    fn postfix(&mut self) -> Option<Tree> {
        let mut base = self.primary()?;
        loop {
            base = if self.take(".").is_some() {
                self.dotted(base)?
            } else if let Some(open) = self.take("[") {
                self.bracketed(base, open)?
            } else {
                return Some(base);
            };
        }
    }

    fn dotted(&mut self, base: Tree) -> Option<Tree> {
        let Some(token) = self.peek().cloned() else {
            self.unexpected("a name or `*` after `.`");
            return None;
        };
        let range = base.range.start..token.range.end;
        let kind = match token.kind {
            TokenKind::Ident(name) => ExprKind::Member(Box::new(base.expr), Arc::from(name)),
            TokenKind::Symbol("*") => ExprKind::Star(Box::new(base.expr)),
            TokenKind::Number(digits) => {
                self.unexpected("a name or `*` after `.`");
                self.last_help(format!("an index is written `[{digits}]`"));
                return None;
            }
            _ => {
                self.unexpected("a name or `*` after `.`");
                return None;
            }
        };
        self.at += 1;
        self.node(kind, range, base.height)
    }

    fn bracketed(&mut self, base: Tree, open: Range<usize>) -> Option<Tree> {
        if let Some(star) = self.take("*") {
            let close = self.expect_close("]", open, "`]`")?;
            let range = base.range.start..close.end.max(star.end);
            return self.node(ExprKind::Star(Box::new(base.expr)), range, base.height);
        }
        let index = self.ternary()?;
        let close = self.expect_close("]", open, "`]`")?;
        let range = base.range.start..close.end;
        let height = base.height.max(index.height);
        let kind = match index.expr.kind {
            ExprKind::Literal(Value::Str(name)) => ExprKind::Member(Box::new(base.expr), name),
            _ => ExprKind::Index(Box::new(base.expr), Box::new(index.expr)),
        };
        self.node(kind, range, height)
    }

    fn primary(&mut self) -> Option<Tree> {
        let Some(token) = self.peek().cloned() else {
            self.unexpected("a value");
            return None;
        };
        let range = token.range;
        let kind = match token.kind {
            TokenKind::Number(digits) => ExprKind::Literal(self.number(digits, range.clone())?),
            TokenKind::Str(text) => ExprKind::Literal(Value::str(text)),
            TokenKind::Ident("true") => ExprKind::Literal(Value::Bool(true)),
            TokenKind::Ident("false") => ExprKind::Literal(Value::Bool(false)),
            TokenKind::Ident("null") => ExprKind::Literal(Value::Null),
            TokenKind::Ident(name) => return self.name(name, range),
            TokenKind::Symbol("(") => return self.parenthesis(range),
            TokenKind::Symbol("[") => return self.list(range),
            TokenKind::Symbol(_) => {
                self.unexpected("a value");
                return None;
            }
        };
        self.at += 1;
        self.node(kind, range, 0)
    }

    fn parenthesis(&mut self, open: Range<usize>) -> Option<Tree> {
        self.at += 1;
        let inner = self.ternary()?;
        let close = self.expect_close(")", open.clone(), "`)`")?;
        // The range takes the brackets in, so that an error about `(a + b) * c` underlines all of it.
        Some(Tree {
            range: open.start..close.end,
            ..inner
        })
    }

    fn list(&mut self, open: Range<usize>) -> Option<Tree> {
        self.at += 1;
        let (items, close, height) = self.items("]", open.clone())?;
        self.node(ExprKind::List(items), open.start..close.end, height)
    }

    /// A context, or a function where `(` follows.
    fn name(&mut self, name: &str, range: Range<usize>) -> Option<Tree> {
        self.at += 1;
        let Some(open) = self.take("(") else {
            return self.node(ExprKind::Context(Arc::from(name)), range, 0);
        };
        let (arguments, close, height) = self.items(")", open)?;
        let whole = range.start..close.end;
        let Some(function) = Function::from_name(name) else {
            self.unknown_function(name, range);
            // Goes on as a null, so that mistakes in what follows are found too.
            return self.node(ExprKind::Literal(Value::Null), whole, 0);
        };
        self.check_arity(function, arguments.len(), whole.clone());
        self.node(ExprKind::Call(function, arguments), whole, height)
    }

    /// Expressions between commas, up to `close`.
    fn items(
        &mut self,
        close: &'static str,
        open: Range<usize>,
    ) -> Option<(Vec<Expr>, Range<usize>, usize)> {
        let mut items = Vec::new();
        let mut height = 0;
        loop {
            if let Some(end) = self.take(close) {
                return Some((items, end, height));
            }
            if !items.is_empty() {
                let wanted = if close == "]" {
                    "`,` or `]`"
                } else {
                    "`,` or `)`"
                };
                if self.take(",").is_none() {
                    self.expect_close(close, open.clone(), wanted)?;
                    continue;
                }
                // A comma before the closing bracket is allowed.
                if let Some(end) = self.take(close) {
                    return Some((items, end, height));
                }
            }
            let item = self.ternary()?;
            height = height.max(item.height);
            items.push(item.expr);
        }
    }

    fn number(&mut self, digits: &str, range: Range<usize>) -> Option<Value> {
        let value = number_value(digits);
        if value.is_none() {
            let span = self.text.span_of(range);
            let whole = !digits.contains(['.', 'e', 'E']) || digits.contains(['x', 'X']);
            let message = format!("`{digits}` is too large");
            self.out
                .push(Diagnostic::error("number", span, message).help(if whole {
                    "integers have 64 bits; a larger number is written as a float, such as `1e20`"
                } else {
                    "floats end at about 1.8e308"
                }));
        }
        value
    }

    fn unknown_function(&mut self, name: &str, range: Range<usize>) {
        let error = Diagnostic::error(
            "unknown-function",
            self.text.span_of(range),
            format!("there is no function `{name}`"),
        );
        let names = Function::ALL.iter().map(|f| f.name());
        let help = match did_you_mean(name, names.clone()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if MATHEMATICS.contains(&name) => format!(
                "expressions have no `{name}`: let a job write it, and read it as a value from its `json` output"
            ),
            None => format!("the functions are {}", names.collect::<Vec<_>>().join(", ")),
        };
        self.out.push(error.help(help));
    }

    fn check_arity(&mut self, function: Function, count: usize, range: Range<usize>) {
        let (least, most) = function.arity();
        if (least..=most).contains(&count) {
            return;
        }
        let wanted = match (least, most) {
            (0, 0) => "no arguments".into(),
            (1, 1) => "1 argument".into(),
            (a, usize::MAX) => format!("at least {a} argument{}", if a == 1 { "" } else { "s" }),
            (a, b) if a == b => format!("{a} arguments"),
            (a, b) => format!("{a} to {b} arguments"),
        };
        let message = format!("`{}` takes {wanted}, not {count}", function.name());
        let error = Diagnostic::error("arguments", self.text.span_of(range), message);
        self.out.push(match usage(function) {
            Some(usage) => error.help(usage),
            None => error,
        });
    }

    fn node(&mut self, kind: ExprKind, range: Range<usize>, below: usize) -> Option<Tree> {
        let span = self.text.span_of(range.clone());
        if below >= MAX_HEIGHT {
            self.too_deep(span);
            return None;
        }
        Some(Tree {
            expr: Expr::new(kind, span),
            range,
            height: below + 1,
        })
    }

    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Option<Tree>) -> Option<Tree> {
        if self.nesting >= MAX_NESTING {
            let at = self
                .peek()
                .map_or(self.end..self.end, |token| token.range.clone());
            self.too_deep(self.text.span_of(at));
            return None;
        }
        self.nesting += 1;
        let tree = read(self);
        self.nesting -= 1;
        tree
    }

    fn too_deep(&mut self, span: Span) {
        self.out.push(
            Diagnostic::error(
                "expression-depth",
                span,
                "the expression is nested too deep",
            )
            .help(format!(
                "brackets nest up to {MAX_NESTING} levels, and operators chain up to {MAX_HEIGHT}"
            )),
        );
    }

    fn peek(&self) -> Option<&Token<'t>> {
        self.tokens.get(self.at)
    }

    fn take(&mut self, symbol: &'static str) -> Option<Range<usize>> {
        let token = self.peek()?;
        if token.kind != TokenKind::Symbol(symbol) {
            return None;
        }
        let range = token.range.clone();
        self.at += 1;
        Some(range)
    }

    fn peek_operator(&self) -> Option<(BinaryOp, u8)> {
        match self.peek()?.kind {
            TokenKind::Symbol(symbol) => operator(symbol),
            _ => None,
        }
    }

    /// Takes the closing bracket, or says what was expected and where the bracket was opened.
    fn expect_close(
        &mut self,
        symbol: &'static str,
        open: Range<usize>,
        wanted: &str,
    ) -> Option<Range<usize>> {
        let taken = self.take(symbol);
        if taken.is_none() {
            self.unexpected(wanted);
            let place = self.text.span_of(open);
            if let Some(last) = self.out.last_mut() {
                last.related.push((place, "opened here".into()));
            }
        }
        taken
    }

    fn unexpected(&mut self, wanted: &str) {
        let (found, range) = match self.peek() {
            Some(token) => (
                format!("`{}`", &self.text.text()[token.range.clone()]),
                token.range.clone(),
            ),
            None => ("the end of the expression".into(), self.end..self.end),
        };
        let help = self.peek().and_then(|token| match token.kind {
            TokenKind::Ident("and") => Some("\"and\" is written `&&`"),
            TokenKind::Ident("or") => Some("\"or\" is written `||`"),
            TokenKind::Ident("in") => Some("write `contains(list, item)`"),
            _ => None,
        });
        let not = self.at.checked_sub(1).map(|at| &self.tokens[at].kind)
            == Some(&TokenKind::Ident("not"));
        let span = self.text.span_of(range);
        let error = Diagnostic::error(SYNTAX, span, format!("expected {wanted}, found {found}"))
            .label(format!("expected {wanted}"));
        self.out.push(match help {
            Some(help) => error.help(help),
            None if not => error.help("\"not\" is written `!`"),
            None => error,
        });
    }

    fn last_help(&mut self, help: String) {
        if let Some(last) = self.out.last_mut() {
            last.help.push(help);
        }
    }
}

/// The operator of a symbol and how tight it binds.
fn operator(symbol: &str) -> Option<(BinaryOp, u8)> {
    Some(match symbol {
        "||" => (BinaryOp::Or, 0),
        "&&" => (BinaryOp::And, 1),
        "==" => (BinaryOp::Eq, 2),
        "!=" => (BinaryOp::Ne, 2),
        "<" => (BinaryOp::Lt, 3),
        "<=" => (BinaryOp::Le, 3),
        ">" => (BinaryOp::Gt, 3),
        ">=" => (BinaryOp::Ge, 3),
        "+" => (BinaryOp::Add, 4),
        "-" => (BinaryOp::Sub, 4),
        "*" => (BinaryOp::Mul, 5),
        "/" => (BinaryOp::Div, 5),
        "%" => (BinaryOp::Rem, 5),
        _ => return None,
    })
}

/// The value of a number with its spelling, or `None` where it does not fit.
fn number_value(text: &str) -> Option<Value> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let typed = if let Some(hex) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        let sign = if digits.len() == text.len() { "" } else { "-" };
        Value::Int(i64::from_str_radix(&format!("{sign}{hex}"), 16).ok()?)
    } else if digits.contains(['.', 'e', 'E']) {
        Value::Float(text.parse().ok().filter(|f: &f64| f.is_finite())?)
    } else {
        Value::Int(text.parse().ok()?)
    };
    Some(Value::spelled(typed, text))
}

/// How a function is called whose arguments are often mistaken.
fn usage(function: Function) -> Option<&'static str> {
    Some(match function {
        Function::Range => {
            "write `range(FIRST, LAST)` or `range(FIRST, LAST, STEP)`, both ends included: `range(1, 3)` is 1, 2, 3"
        }
        Function::Linspace => {
            "write `linspace(FIRST, LAST, COUNT)`: `linspace(0, 1, 3)` is 0, 0.5, 1"
        }
        Function::Logspace => {
            "write `logspace(FIRST, LAST, COUNT)` with exponents of ten: `logspace(-2, 0, 3)` is 0.01, 0.1, 1"
        }
        _ => return None,
    })
}
