//! Scalars: texts, numbers, values, templates and expressions, with the hints for what YAML does to them.

use std::{borrow::Cow, sync::Arc};

use dagrun_model::{
    CONTEXTS, Diagnostic, Expr, Map, Span, Spanned, Template, Value, ValueTemplate,
};

use super::{At, Decoder, View};
use crate::{
    template::{parse_expression, parse_template},
    text::SourceText,
    yaml::{self, Kind, Style},
};

const CORE_TAGS: &[&str] = &[
    "!!str", "!!int", "!!float", "!!bool", "!!null", "!!seq", "!!map", "!",
];

impl<'a> Decoder<'a, '_> {
    /// Reports a tag outside the core schema; most often it is an expression that begins with `!`.
    pub(super) fn check_tag(&mut self, at: At) {
        let node = self.tree.node(at.id);
        let Some(tag) = node.tag.as_deref() else {
            return;
        };
        if CORE_TAGS.contains(&tag) {
            return;
        }
        let limit = node.range().start
            + if node.range().is_empty() {
                0
            } else {
                tag.len()
            };
        let start = match self.text[..limit.min(self.text.len())].rfind(tag) {
            Some(start) => start,
            None => node.range().start,
        };
        let file = self.span(at).file;
        let line_end = self.text[start..]
            .find('\n')
            .map_or(self.text.len(), |n| start + n);
        let line = self.text[start..line_end].trim_end();
        if tag.contains('(') || tag.contains('$') || tag.contains('.') {
            let whole = Span::new(file, start, start + line.len());
            let expression = format!("${{{{ {line} }}}}");
            let diagnostic = Diagnostic::error(
                "expression-is-tag",
                whole,
                "a value that begins with `!` is a YAML tag, not an expression",
            )
            .help(format!("write `{expression}`"));
            let in_flow = line.contains([',', ']', '}', '#', '"']);
            self.push(if in_flow {
                diagnostic
            } else {
                diagnostic.fix(whole, expression)
            });
        } else {
            let span = Span::new(file, start, start + tag.len());
            let diagnostic = Diagnostic::error(
                "unknown-tag",
                span,
                format!("the YAML tag `{}` is not known here", super::printable(tag)),
            )
            .help("remove it, or put the value in quotes if the `!` belongs to it");
            self.push(diagnostic);
        }
    }

    fn style(&self, at: At) -> Option<Style> {
        match self.tree.node(at.id).kind {
            Kind::Scalar(style, _) => Some(style),
            _ => None,
        }
    }

    /// The text of a node that is a scalar and not null; else reported.
    pub(crate) fn text(&mut self, at: At, what: &str, expected: &str) -> Option<Cow<'a, str>> {
        match self.view(at) {
            View::Scalar => {
                let tree: &'a yaml::Tree = self.tree;
                Some(tree.text(at.id, self.text))
            }
            _ => {
                self.wrong_type(at, what, expected);
                None
            }
        }
    }

    /// A text in which no template may stand.
    pub(crate) fn literal(
        &mut self,
        at: At,
        what: &str,
        expected: &str,
    ) -> Option<Spanned<String>> {
        let text = self.text(at, what, expected)?;
        if text.contains("${{") {
            let diagnostic = self
                .diagnostic(
                    "template-not-allowed",
                    at,
                    format!("{what} cannot hold a template"),
                )
                .help(format!(
                    "write {expected} itself: it must be known before anything is evaluated"
                ));
            self.push(diagnostic);
            return None;
        }
        Some(Spanned::new(text.into_owned(), self.span(at)))
    }

    /// A boolean.
    pub(crate) fn bool(&mut self, at: At, what: &str) -> Option<bool> {
        match self.plain_value(at) {
            Some(value) if value.as_bool().is_some() => value.as_bool(),
            _ => {
                self.wrong_type(at, what, "`true` or `false`");
                None
            }
        }
    }

    /// A whole number from `least` up.
    pub(crate) fn count(&mut self, at: At, what: &str, least: u32) -> Option<u32> {
        let number = self
            .plain_value(at)
            .and_then(|v| v.as_i64())
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n >= least);
        if number.is_none() {
            self.wrong_type(at, what, &format!("a whole number from {least} up"));
        }
        number
    }

    /// A number.
    pub(crate) fn number(&mut self, at: At, what: &str) -> Option<f64> {
        let number = self.plain_value(at).and_then(|v| v.as_f64());
        if number.is_none() {
            self.wrong_type(at, what, "a number");
        }
        number
    }

    fn plain_value(&self, at: At) -> Option<Value> {
        matches!(self.view(at), View::Scalar).then(|| self.scalar_value(at))
    }

    /// One of some words.
    pub(crate) fn word(
        &mut self,
        at: At,
        what: &str,
        words: &[&'static str],
    ) -> Option<&'static str> {
        let list = words
            .iter()
            .map(|w| format!("`{w}`"))
            .collect::<Vec<_>>()
            .join(", ");
        let expected = if words.len() == 1 {
            list
        } else {
            format!("one of {list}")
        };
        let text = self.text(at, what, &expected)?;
        let found = words.iter().copied().find(|w| *w == text);
        if found.is_none() {
            let mut diagnostic = self.diagnostic(
                "unknown-word",
                at,
                format!("{what} cannot be `{}`", super::printable(&text)),
            );
            diagnostic = match dagrun_model::did_you_mean(&text, words.iter().copied()) {
                Some(near) => diagnostic
                    .help(format!("did you mean `{near}`?"))
                    .fix(self.span(at), near),
                None => diagnostic.help(format!("write {expected}")),
            };
            self.push(diagnostic);
        }
        found
    }

    /// The text of a scalar with the places of its bytes.
    pub(crate) fn source_text(&self, at: At) -> SourceText {
        yaml::source_text(self.tree, at.id, self.text)
    }

    /// Any scalar but null as a template.
    pub(crate) fn template(&mut self, at: At, what: &str, expected: &str) -> Option<Template> {
        let text = self.text(at, what, expected)?;
        Some(self.template_of(at, &text))
    }

    fn template_of(&mut self, at: At, text: &str) -> Template {
        let span = self.span(at);
        self.check_braces(at, text);
        if !text.contains("${{") || self.check_cut(at, text) {
            return Template::text(text, span);
        }
        let source = self.source_text(at);
        let mut out = Vec::new();
        let template = parse_template(&source, &mut out);
        self.push_all(at, out);
        template
    }

    /// A condition, which is always an expression.
    pub(crate) fn expression(&mut self, at: At, what: &str) -> Option<Expr> {
        let text = self.text(at, what, "an expression")?;
        if self.tree.node(at.id).tag.is_some()
            || self.check_cut(at, &text)
            || self.check_braces(at, &text)
        {
            return None;
        }
        let source = self.source_text(at);
        let mut out = Vec::new();
        let expr = parse_expression(&source, &mut out);
        self.push_all(at, out);
        expr
    }

    /// Reports what another reader found in a scalar, with the alias that led there.
    pub(crate) fn push_all(&mut self, at: At, out: Vec<Diagnostic>) {
        for diagnostic in out {
            let diagnostic = match at.via {
                Some(alias) => diagnostic.related(alias, "used here"),
                None => diagnostic,
            };
            self.push(diagnostic);
        }
    }

    /// `a: ${{ 'x # y' }}` without quotes: YAML takes ` #` for a comment and cuts the template.
    pub(crate) fn check_cut(&mut self, at: At, text: &str) -> bool {
        if self.style(at) != Some(Style::Plain) {
            return false;
        }
        let open = text
            .rfind("${{")
            .is_some_and(|open| !text[open..].contains("}}"));
        let span = self.span(at);
        let rest = &self.text[span.end as usize..];
        let rest = &rest[..rest.find('\n').unwrap_or(rest.len())];
        let comment = rest.trim_start();
        if !open || !comment.starts_with('#') || comment.len() == rest.len() {
            return false;
        }
        let hash = span.end as usize + (rest.len() - comment.len());
        let whole = Span::new(
            span.file,
            span.start as usize,
            span.end as usize + rest.trim_end().len(),
        );
        let value = &self.text[whole.start as usize..whole.end as usize];
        let quoted = double_quoted(value);
        let diagnostic = Diagnostic::error(
            "template-cut",
            Span::new(span.file, hash, hash + 1),
            "` #` begins a comment and cuts the template",
        )
        .label("YAML reads no further than this")
        .related(
            Span::new(span.file, span.start as usize, span.end as usize),
            "the template opens here",
        )
        .help("put the whole value in quotes")
        .fix(whole, quoted);
        self.push(diagnostic);
        true
    }

    /// `{{ params.x }}` without `$`.
    fn check_braces(&mut self, at: At, text: &str) -> bool {
        let Some((start, end)) = bare_braces(text) else {
            return false;
        };
        let span = self.source_text(at).span_of(start..end);
        let inner = text[start + 2..end].trim_end_matches("}}").trim();
        let diagnostic = Diagnostic::error(
            "braces-without-dollar",
            span,
            "`{{ }}` without `$` is text, not a template",
        )
        .help(format!("write `${{{{ {inner} }}}}`"))
        .fix(span, format!("${{{{ {inner} }}}}"));
        self.push(diagnostic);
        true
    }

    /// The value of a scalar by the core schema, or by its tag.
    pub(crate) fn scalar_value(&self, at: At) -> Value {
        let text = self.tree.text(at.id, self.text);
        let node = self.tree.node(at.id);
        match (&node.kind, node.tag.as_deref()) {
            (Kind::Scalar(Style::Plain, _), None) => yaml::core_schema(&text),
            (_, None | Some("!!str" | "!")) => Value::str(&*text),
            (_, Some("!!null")) => Value::Null,
            (_, Some("!!float")) => match yaml::core_schema(&text) {
                value if value.as_f64().is_some() => {
                    Value::spelled(Value::Float(value.as_f64().unwrap_or(0.0)), &text)
                }
                _ => Value::str(&*text),
            },
            (_, Some(_)) => yaml::core_schema(&text),
        }
    }

    /// A value with templates at any depth. Parts without templates become plain values.
    pub(crate) fn value_template(&mut self, at: At) -> ValueTemplate {
        match self.view(at) {
            View::Null => ValueTemplate::Value(Spanned::new(self.null_value(at), self.span(at))),
            View::Scalar => self.scalar_template(at),
            View::List(items) => {
                let items = self.items(at, items);
                let items = items
                    .into_iter()
                    .map(|item| self.value_template(item))
                    .collect();
                collapse_list(items, self.span(at))
            }
            View::Map => {
                let entries = self.entries(at, "the value", "a map").unwrap_or_default();
                let entries = entries
                    .into_iter()
                    .map(|e| (Arc::from(&*e.name), self.value_template(e.at)))
                    .collect();
                collapse_map(entries, self.span(at))
            }
        }
    }

    fn null_value(&self, at: At) -> Value {
        match self.exhausted() {
            true => Value::Null,
            false => self.scalar_value(at),
        }
    }

    fn scalar_template(&mut self, at: At) -> ValueTemplate {
        let tree: &'a yaml::Tree = self.tree;
        let text = tree.text(at.id, self.text);
        if text.contains("{{") {
            let template = self.template_of(at, &text);
            if template.as_text().is_none() {
                return ValueTemplate::Template(template);
            }
        }
        ValueTemplate::Value(Spanned::new(self.scalar_value(at), self.span(at)))
    }

    /// A value without any template; one is reported.
    pub(crate) fn plain(&mut self, at: At, what: &str) -> Value {
        match self.value_template(at) {
            ValueTemplate::Value(value) => value.value,
            _ => {
                let diagnostic = self
                    .diagnostic(
                        "template-not-allowed",
                        at,
                        format!("{what} cannot hold a template"),
                    )
                    .help("write the value itself");
                self.push(diagnostic);
                Value::Null
            }
        }
    }
}

fn collapse_list(items: Vec<ValueTemplate>, span: Span) -> ValueTemplate {
    if !items
        .iter()
        .all(|item| matches!(item, ValueTemplate::Value(_)))
    {
        return ValueTemplate::List(items, span);
    }
    let values = items.into_iter().filter_map(plain_part);
    ValueTemplate::Value(Spanned::new(Value::list(values), span))
}

fn collapse_map(entries: Vec<(Arc<str>, ValueTemplate)>, span: Span) -> ValueTemplate {
    if !entries
        .iter()
        .all(|(_, v)| matches!(v, ValueTemplate::Value(_)))
    {
        return ValueTemplate::Map(entries, span);
    }
    let map: Map = entries
        .into_iter()
        .filter_map(|(name, v)| plain_part(v).map(|v| (name, v)))
        .collect();
    ValueTemplate::Value(Spanned::new(Value::map(map), span))
}

fn plain_part(template: ValueTemplate) -> Option<Value> {
    match template {
        ValueTemplate::Value(value) => Some(value.value),
        _ => None,
    }
}

fn double_quoted(value: &str) -> String {
    if value.contains(['"', '\\']) {
        format!("'{}'", value.replace('\'', "''"))
    } else {
        format!("\"{value}\"")
    }
}

/// The first `{{ context.` without a `$` before it, to its `}}` or the end of the text.
pub(crate) fn bare_braces(text: &str) -> Option<(usize, usize)> {
    let mut from = 0;
    while let Some(found) = text[from..].find("{{") {
        let at = from + found;
        let inner = text[at + 2..].trim_start();
        let word = inner
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .unwrap_or(inner.len());
        let known = CONTEXTS.contains(&&inner[..word]) && inner[word..].starts_with(['.', '[']);
        if known && !text[..at].ends_with('$') {
            let end = text[at..].find("}}").map_or(text.len(), |n| at + n + 2);
            return Some((at, end));
        }
        from = at + 2;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::bare_braces;

    #[test]
    fn braces_without_a_dollar_are_found_only_before_contexts() {
        assert_eq!(bare_braces("a {{ params.x }} b"), Some((2, 16)));
        assert_eq!(bare_braces("${{ params.x }}"), None);
        assert_eq!(bare_braces("{{ .Name }} {{ params }}"), None);
        assert_eq!(bare_braces("${{ a }}{{ matrix['x'] }}"), Some((8, 25)));
    }
}
