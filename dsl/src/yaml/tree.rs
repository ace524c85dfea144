//! The arena tree.

use std::borrow::Cow;

use dagrun_model::{FileIx, Span};

/// The index of a node in its [`Tree`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct NodeId(pub(super) u32);

impl NodeId {
    /// The node at a position of [`Tree::nodes`].
    pub(crate) fn new(ix: u32) -> Self {
        Self(ix)
    }
}

/// A document.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(super) file: FileIx,
    pub(super) nodes: Vec<Node>,
    pub(super) root: NodeId,
}

/// A node: what it is, and which bytes it takes.
#[derive(Debug)]
pub(crate) struct Node {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(crate) tag: Option<Box<str>>,
    /// A collection in brackets or braces.
    pub(crate) flow: bool,
    pub(crate) kind: Kind,
}

/// What a node is.
#[derive(Debug)]
pub(crate) enum Kind {
    /// A scalar; without a text of its own, the text is what stands in the source.
    Scalar(Style, Option<Box<str>>),
    /// A list.
    List(Box<[NodeId]>),
    /// A map.
    Map(Box<[(NodeId, NodeId)]>),
    /// An alias for a node that comes before it.
    Alias(NodeId),
}

/// How a scalar is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Style {
    Plain,
    Single,
    Double,
    Literal,
    Folded,
}

impl Tree {
    /// The root.
    pub(crate) fn root(&self) -> NodeId {
        self.root
    }

    /// The node of an index.
    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The span of a node.
    pub(crate) fn span(&self, id: NodeId) -> Span {
        let node = self.node(id);
        Span {
            file: self.file,
            start: node.start,
            end: node.end,
        }
    }

    /// The text of a scalar after unescaping and folding; of anything else, its source.
    pub(crate) fn text<'a>(&'a self, id: NodeId, source: &'a str) -> Cow<'a, str> {
        let node = self.node(id);
        match &node.kind {
            Kind::Scalar(_, Some(text)) => Cow::Borrowed(text),
            _ => Cow::Borrowed(&source[node.start as usize..node.end as usize]),
        }
    }

    /// All nodes, parents before children.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }
}

impl Node {
    /// The bytes it takes.
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}
