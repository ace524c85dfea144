//! Parser events into the tree, within limits. The only module that names the parser crate.

use dagrun_model::{Diagnostic, FileIx, Span};
use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, StructureStyle, options};

use super::{
    Kind, MAX_BYTES, MAX_DEPTH, MAX_NODES, MAX_SCALAR, Node, NodeId, Style, Tree,
    hints::{self, Syntax},
};

/// An error that ends the reading.
type Failure = Box<Diagnostic>;

/// More errors than anybody reads.
const MAX_ERRORS: usize = 500;

/// Reads one document; `None` for a file without any.
///
/// # Errors
/// What is wrong with the text: one syntax error, or all duplicate keys and unknown anchors.
pub(crate) fn read(file: FileIx, text: &str) -> Result<Option<Tree>, Vec<Diagnostic>> {
    if text.len() > MAX_BYTES {
        return Err(vec![too_big(file, text.len())]);
    }
    if let Some(at) = text.find('\0') {
        return Err(vec![hints::nul(Span::new(file, at, at + 1))]);
    }
    let mut builder = Builder::new(file, text);
    let options = options! {
        emit_unresolved_aliases: true,
        emit_anchor_events: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    for item in Parser::new_from_str_with_options(text, options) {
        let result = match item {
            Ok((event, span)) => builder.event(event, span),
            Err(error) => Err(builder.syntax_error(&error).into()),
        };
        if let Err(diagnostic) = result {
            builder.errors.push(*diagnostic);
            return Err(builder.errors);
        }
    }
    builder.finish()
}

fn too_big(file: FileIx, bytes: usize) -> Diagnostic {
    Diagnostic::error(
        "file-too-big",
        Span::new(file, 0, 0),
        format!(
            "the file has {} and the limit is {}",
            dagrun_model::format_bytes(bytes as u64),
            dagrun_model::format_bytes(MAX_BYTES as u64)
        ),
    )
    .help("keep data in files of their own and name them under `inputs`")
}

fn too_long(span: Span, bytes: usize) -> Diagnostic {
    // Not the whole of it: excerpts would be as long.
    let begin = Span {
        end: span.start,
        ..span
    };
    Diagnostic::error(
        "value-too-long",
        begin,
        format!(
            "this value has {} and the limit is {}",
            dagrun_model::format_bytes(bytes as u64),
            dagrun_model::format_bytes(MAX_SCALAR as u64)
        ),
    )
    .help("keep it in a file of its own and name that under `inputs`")
}

/// A collection that is not closed yet.
struct Frame {
    node: NodeId,
    is_map: bool,
    children: Vec<NodeId>,
    /// How deep its deepest child goes, aliases counted as what they stand for.
    height: usize,
    anchor: usize,
}

struct Builder<'t> {
    file: FileIx,
    text: &'t str,
    nodes: Vec<Node>,
    frames: Vec<Frame>,
    root: Option<NodeId>,
    documents: usize,
    /// Per anchor: its node and height, once it is complete.
    anchors: Vec<Option<(NodeId, usize)>>,
    errors: Vec<Diagnostic>,
}

impl<'t> Builder<'t> {
    fn new(file: FileIx, text: &'t str) -> Self {
        Self {
            file,
            text,
            nodes: Vec::new(),
            frames: Vec::new(),
            root: None,
            documents: 0,
            anchors: Vec::new(),
            errors: Vec::new(),
        }
    }

    fn event(&mut self, event: Event<'_>, span: granit_parser::Span) -> Result<(), Failure> {
        let range = span.byte_range().unwrap_or(0..0);
        // A node's own span begins after its tag; errors about tags want the tag.
        let tag_range = span.tag_span().and_then(|tag| tag.byte_range());
        let tag = |tag: Option<&granit_parser::Tag>| tag.map(|tag| tag.original().into_boxed_str());
        match event {
            Event::DocumentStart(..) => self.document(range),
            Event::Scalar(text, style, anchor, written) => {
                let tag = tag(written.as_deref());
                let start = tag_range
                    .filter(|_| range.is_empty())
                    .map_or(range.start, |t| t.start);
                self.scalar(
                    &text,
                    style,
                    start..range.end,
                    range.is_empty(),
                    tag,
                    anchor,
                )
            }
            Event::SequenceStart(style, anchor, written) => {
                self.open(range, tag(written.as_deref()), anchor, false)?;
                self.mark_flow(style);
                Ok(())
            }
            Event::MappingStart(style, anchor, written) => {
                self.open(range, tag(written.as_deref()), anchor, true)?;
                self.mark_flow(style);
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(range),
            Event::Alias(id) => self.alias(id, range),
            Event::UnresolvedAlias(name) => {
                let span = self.span(range.clone());
                if self.errors.len() < MAX_ERRORS {
                    self.errors.push(hints::unknown_anchor(&name, span));
                }
                let null = Kind::Scalar(Style::Plain, Some("".into()));
                self.add(range, None, null).map(|id| self.place(id, 0))
            }
            _ => Ok(()),
        }
    }

    fn span(&self, range: std::ops::Range<usize>) -> Span {
        Span::new(self.file, range.start, range.end)
    }

    fn document(&mut self, range: std::ops::Range<usize>) -> Result<(), Failure> {
        self.documents += 1;
        if self.documents > 1 {
            return Err(hints::several_documents(self.span(range)).into());
        }
        Ok(())
    }

    fn add(
        &mut self,
        range: std::ops::Range<usize>,
        tag: Option<Box<str>>,
        kind: Kind,
    ) -> Result<NodeId, Failure> {
        if self.nodes.len() >= MAX_NODES {
            return Err(Diagnostic::error(
                "too-many-nodes",
                self.span(range),
                format!("the file has more than {MAX_NODES} values"),
            )
            .help("write long lists as expressions such as `${{ range(1, 1000) }}`, or keep them in a file")
            .into());
        }
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node {
            start: range.start as u32,
            end: range.end as u32,
            tag,
            flow: false,
            kind,
        });
        Ok(id)
    }

    /// Puts a complete node where it belongs.
    fn place(&mut self, id: NodeId, height: usize) {
        match self.frames.last_mut() {
            Some(frame) => {
                frame.children.push(id);
                frame.height = frame.height.max(height);
            }
            None => self.root = Some(id),
        }
    }

    fn anchor(&mut self, anchor: usize, id: NodeId, height: usize) {
        if anchor > 0 {
            if self.anchors.len() <= anchor {
                self.anchors.resize(anchor + 1, None);
            }
            self.anchors[anchor] = Some((id, height));
        }
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        range: std::ops::Range<usize>,
        absent: bool,
        tag: Option<Box<str>>,
        anchor: usize,
    ) -> Result<(), Failure> {
        if text.len() > MAX_SCALAR {
            return Err(too_long(self.span(range), text.len()).into());
        }
        let style = match style {
            ScalarStyle::SingleQuoted => Style::Single,
            ScalarStyle::DoubleQuoted => Style::Double,
            ScalarStyle::Literal => Style::Literal,
            ScalarStyle::Folded => Style::Folded,
            _ => Style::Plain,
        };
        let range = match style {
            Style::Literal | Style::Folded => trimmed(self.text, range),
            _ => range,
        };
        // The parser gives `~` for a value that is not there.
        let text = if absent && style == Style::Plain {
            ""
        } else {
            text
        };
        let as_written = style == Style::Plain && self.text.get(range.clone()) == Some(text);
        let own = (!as_written).then(|| text.into());
        let id = self.add(range, tag, Kind::Scalar(style, own))?;
        self.anchor(anchor, id, 0);
        self.place(id, 0);
        Ok(())
    }

    fn open(
        &mut self,
        range: std::ops::Range<usize>,
        tag: Option<Box<str>>,
        anchor: usize,
        is_map: bool,
    ) -> Result<(), Failure> {
        if self.frames.len() >= MAX_DEPTH {
            return Err(hints::too_deep(self.span(range)).into());
        }
        let node = self.add(range, tag, Kind::List(Box::new([])))?;
        self.frames.push(Frame {
            node,
            is_map,
            children: Vec::new(),
            height: 0,
            anchor,
        });
        Ok(())
    }

    fn mark_flow(&mut self, style: StructureStyle) {
        if let Some(node) = self.nodes.last_mut() {
            node.flow = style == StructureStyle::Flow;
        }
    }

    fn close(&mut self, range: std::ops::Range<usize>) -> Result<(), Failure> {
        let Some(frame) = self.frames.pop() else {
            return Ok(());
        };
        // A block collection ends where its last child ends, not at the next token.
        let last_child = frame
            .children
            .last()
            .map_or(0, |id| self.nodes[id.0 as usize].end);
        let own = &mut self.nodes[frame.node.0 as usize];
        own.end = match range.is_empty() {
            true => last_child.max(own.end),
            false => range.end as u32,
        };
        let kind = if frame.is_map {
            self.map(&frame.children)
        } else {
            Kind::List(frame.children.into())
        };
        self.nodes[frame.node.0 as usize].kind = kind;
        let height = frame.height + 1;
        if height + self.frames.len() > MAX_DEPTH {
            let range = self.nodes[frame.node.0 as usize].range();
            return Err(hints::too_deep(self.span(range)).into());
        }
        self.anchor(frame.anchor, frame.node, height);
        self.place(frame.node, height);
        Ok(())
    }

    /// Pairs keys with values; reports keys that are no text, and keys that stand twice.
    fn map(&mut self, children: &[NodeId]) -> Kind {
        let entries: Box<[(NodeId, NodeId)]> = children
            .chunks_exact(2)
            .map(|pair| (pair[0], pair[1]))
            .collect();
        let mut seen = rustc_hash::FxHashMap::default();
        for (key, _) in &entries {
            let node = &self.nodes[key.0 as usize];
            let span = Span::new(self.file, node.start as usize, node.end as usize);
            let text = match &node.kind {
                Kind::Scalar(_, Some(text)) => &**text,
                Kind::Scalar(_, None) => &self.text[node.range()],
                _ if self.errors.len() >= MAX_ERRORS => continue,
                _ => {
                    let source = &self.text[node.range()];
                    self.errors
                        .push(hints::key_is_no_text(source, self.text, span));
                    continue;
                }
            };
            if let Some(first) = seen.insert(text, span)
                && self.errors.len() < MAX_ERRORS
            {
                self.errors.push(hints::duplicate_key(text, span, first));
            }
        }
        Kind::Map(entries)
    }

    fn alias(&mut self, anchor: usize, range: std::ops::Range<usize>) -> Result<(), Failure> {
        let Some((target, height)) = self.anchors.get(anchor).copied().flatten() else {
            return Err(hints::recursive_alias(self.span(range)).into());
        };
        if height + self.frames.len() > MAX_DEPTH {
            return Err(hints::too_deep(self.span(range)).into());
        }
        let id = self.add(range, None, Kind::Alias(target))?;
        self.place(id, height);
        Ok(())
    }

    fn syntax_error(&self, error: &ScanError) -> Diagnostic {
        let at = error
            .marker()
            .byte_offset()
            .unwrap_or(self.text.len())
            .min(self.text.len());
        let syntax = match error.kind() {
            ErrorKind::RecursionLimitExceeded => Syntax::TooDeep,
            ErrorKind::TabNotAllowed
            | ErrorKind::TabInBlockIndentation
            | ErrorKind::TabInIndentation
            | ErrorKind::TabAtBlockScalarStart
            | ErrorKind::TabInPlainScalar
            | ErrorKind::InvalidBlockEntryWhitespace
            | ErrorKind::InvalidMappingValueWhitespace => Syntax::Tab,
            ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidColonPlacement => Syntax::Colon,
            ErrorKind::ExpectedFlowSequenceSeparator => Syntax::ListSeparator,
            ErrorKind::ExpectedFlowMappingSeparator => Syntax::MapSeparator,
            ErrorKind::UnclosedFlowCollection { open } => Syntax::Unclosed(*open),
            ErrorKind::UnexpectedEofFlowSequence => Syntax::Unclosed('['),
            ErrorKind::UnexpectedEofFlowMapping | ErrorKind::UnexpectedEofImplicitFlowMapping => {
                Syntax::Unclosed('{')
            }
            ErrorKind::MismatchedFlowCollectionEnd { open, .. } => Syntax::Unclosed(*open),
            ErrorKind::UnclosedQuotedScalar | ErrorKind::DocumentIndicatorInQuotedScalar => {
                Syntax::UnclosedQuote
            }
            ErrorKind::InvalidQuotedScalarIndent => Syntax::QuoteRunsOn,
            ErrorKind::UnexpectedCharacter { character } => Syntax::Character(*character),
            ErrorKind::InvalidTrailingSingleQuotedScalar
            | ErrorKind::InvalidTrailingDoubleQuotedScalar => Syntax::AfterQuote,
            ErrorKind::UnknownQuotedScalarEscape | ErrorKind::InvalidQuotedScalarHexEscape => {
                Syntax::Escape
            }
            ErrorKind::BlockSequenceEntryNotAllowed => Syntax::DashOnKeyLine,
            ErrorKind::ExpectedBlockMappingKey | ErrorKind::InvalidIndentation => {
                Syntax::Indentation
            }
            ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => Syntax::MissingColon,
            other => Syntax::Other(other.to_string()),
        };
        hints::syntax(syntax, self.text, at, self.file)
    }

    fn finish(self) -> Result<Option<Tree>, Vec<Diagnostic>> {
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        Ok(self.root.map(|root| Tree {
            file: self.file,
            nodes: self.nodes,
            root,
        }))
    }
}

/// A block scalar without the line breaks at its end.
fn trimmed(text: &str, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
    let body = text.get(range.clone()).unwrap_or("");
    range.start..range.start + body.trim_end_matches([' ', '\t', '\r', '\n']).len()
}
