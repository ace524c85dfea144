//! A graph as DOT, Mermaid or SVG. Knows boxes and arrows, not pipelines.

use std::fmt::Write as _;

/// A box.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// The first line.
    pub(crate) title: String,
    /// The second line; may be empty.
    pub(crate) note: String,
}

/// An arrow from a box to a box that needs it.
#[derive(Debug, Clone)]
pub(crate) struct Edge {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// What goes along it; may be empty.
    pub(crate) label: String,
    /// Whether data goes along it; an order-only need is dashed.
    pub(crate) data: bool,
}

/// Boxes and arrows; every arrow goes from an earlier to a later box.
#[derive(Debug, Clone, Default)]
pub(crate) struct Graph {
    pub(crate) name: String,
    pub(crate) nodes: Vec<Node>,
    pub(crate) edges: Vec<Edge>,
}

impl Graph {
    pub(crate) fn dot(&self) -> String {
        let quote = |text: &str| {
            format!(
                "\"{}\"",
                text.replace('\\', "\\\\")
                    .replace('"', "\\\"")
                    .replace('\n', "\\n")
            )
        };
        let mut text = format!(
            "digraph {} {{\n  rankdir=LR;\n  node [shape=box, style=rounded];\n",
            quote(&self.name)
        );
        for (ix, node) in self.nodes.iter().enumerate() {
            let label = if node.note.is_empty() {
                node.title.clone()
            } else {
                format!("{}\n{}", node.title, node.note)
            };
            let _ = writeln!(text, "  n{ix} [label={}];", quote(&label));
        }
        for edge in &self.edges {
            let mut looks = Vec::new();
            if !edge.label.is_empty() {
                looks.push(format!("label={}", quote(&edge.label)));
            }
            if !edge.data {
                looks.push("style=dashed".into());
            }
            let looks = match looks.is_empty() {
                true => String::new(),
                false => format!(" [{}]", looks.join(", ")),
            };
            let _ = writeln!(text, "  n{} -> n{}{looks};", edge.from, edge.to);
        }
        text.push_str("}\n");
        text
    }

    pub(crate) fn mermaid(&self) -> String {
        let quote = |text: &str| text.replace('"', "&quot;").replace('\n', " ");
        let mut text = String::from("flowchart LR\n");
        for (ix, node) in self.nodes.iter().enumerate() {
            let note = if node.note.is_empty() {
                String::new()
            } else {
                format!("<br/>{}", quote(&node.note))
            };
            let _ = writeln!(text, "  n{ix}[\"{}{note}\"]", quote(&node.title));
        }
        for edge in &self.edges {
            let line = if edge.data { "-->" } else { "-.->" };
            let label = if edge.label.is_empty() {
                String::new()
            } else {
                format!("|\"{}\"|", quote(&edge.label))
            };
            let _ = writeln!(text, "  n{} {line}{label} n{}", edge.from, edge.to);
        }
        text
    }

    pub(crate) fn svg(&self) -> String {
        Layout::new(self).svg(self)
    }
}

const CHAR: f64 = 7.3;
const BOX_HEIGHT: f64 = 44.0;
const GAP_X: f64 = 84.0;
const GAP_Y: f64 = 22.0;
const MARGIN: f64 = 20.0;

/// Boxes in layers from left to right: a box stands one layer right of the last one that it needs, and within a layer the
/// boxes are ordered by the mean place of their neighbours (Sugiyama's barycentre method, a few sweeps).
struct Layout {
    /// x, y and width of each box.
    boxes: Vec<(f64, f64, f64)>,
    size: (f64, f64),
}

impl Layout {
    fn new(graph: &Graph) -> Self {
        let layers = order(graph, layers(graph));
        let width = |ix: usize| {
            let node = &graph.nodes[ix];
            let longest = node.title.chars().count().max(node.note.chars().count());
            (longest as f64 * CHAR + 24.0).max(80.0)
        };
        let tallest = layers.iter().map(Vec::len).max().unwrap_or(0) as f64;
        let height = tallest * (BOX_HEIGHT + GAP_Y) - GAP_Y;
        let mut boxes = vec![(0.0, 0.0, 0.0); graph.nodes.len()];
        let mut x = MARGIN;
        for layer in &layers {
            let widest = layer.iter().map(|ix| width(*ix)).fold(0.0, f64::max);
            let own_height = layer.len() as f64 * (BOX_HEIGHT + GAP_Y) - GAP_Y;
            for (row, ix) in layer.iter().enumerate() {
                let y = MARGIN + (height - own_height) / 2.0 + row as f64 * (BOX_HEIGHT + GAP_Y);
                boxes[*ix] = (x, y, widest);
            }
            x += widest + GAP_X;
        }
        Self {
            boxes,
            size: (x - GAP_X + MARGIN, height + 2.0 * MARGIN),
        }
    }

    fn svg(&self, graph: &Graph) -> String {
        let (width, height) = self.size;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
             height=\"{height:.0}\" font-family=\"system-ui, sans-serif\" font-size=\"13\">\n<title>{}</title>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
             <defs><marker id=\"a\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
             orient=\"auto\"><path d=\"M0,0 L8,4 L0,8 z\" fill=\"#5b6472\"/></marker></defs>\n",
            xml(&graph.name)
        );
        for edge in &graph.edges {
            let (from_x, from_y, from_width) = self.boxes[edge.from];
            let (to_x, to_y, _) = self.boxes[edge.to];
            let (x1, y1) = (from_x + from_width, from_y + BOX_HEIGHT / 2.0);
            let (x2, y2) = (to_x, to_y + BOX_HEIGHT / 2.0);
            let bend = (x2 - x1) / 2.0;
            let dash = if edge.data {
                ""
            } else {
                " stroke-dasharray=\"5 4\""
            };
            let _ = writeln!(
                svg,
                "<path d=\"M{x1:.1},{y1:.1} C{:.1},{y1:.1} {:.1},{y2:.1} {x2:.1},{y2:.1}\" fill=\"none\" stroke=\"#5b6472\" \
                 stroke-width=\"1.2\"{dash} marker-end=\"url(#a)\"/>",
                x1 + bend,
                x2 - bend
            );
            if !edge.label.is_empty() {
                let _ = writeln!(
                    svg,
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"11\" fill=\"#5b6472\">{}</text>",
                    (x1 + x2) / 2.0,
                    (y1 + y2) / 2.0 - 5.0,
                    xml(&edge.label)
                );
            }
        }
        for (node, (x, y, width)) in graph.nodes.iter().zip(&self.boxes) {
            let middle = x + width / 2.0;
            let title_y = if node.note.is_empty() {
                y + 27.0
            } else {
                y + 19.0
            };
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BOX_HEIGHT}\" rx=\"7\" fill=\"#eef3fb\" \
                 stroke=\"#3b6fb6\"/>\n<text x=\"{middle:.1}\" y=\"{title_y:.1}\" text-anchor=\"middle\" \
                 fill=\"#16202e\">{}</text>",
                xml(&node.title)
            );
            if !node.note.is_empty() {
                let _ = writeln!(
                    svg,
                    "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"11\" fill=\"#5b6472\">{}</text>",
                    y + 35.0,
                    xml(&node.note)
                );
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn layers(graph: &Graph) -> Vec<Vec<usize>> {
    let mut depth = vec![0_usize; graph.nodes.len()];
    let mut edges: Vec<&Edge> = graph.edges.iter().collect();
    // Boxes may stand in any order in the file: repeat until nothing moves. Cycles were refused before.
    edges.sort_by_key(|edge| (edge.from, edge.to));
    for _ in 0..graph.nodes.len() {
        let mut moved = false;
        for edge in &edges {
            if depth[edge.to] <= depth[edge.from] {
                depth[edge.to] = depth[edge.from] + 1;
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    let mut layers = vec![Vec::new(); depth.iter().max().map_or(0, |deepest| deepest + 1)];
    for (ix, depth) in depth.iter().enumerate() {
        layers[*depth].push(ix);
    }
    layers
}

fn order(graph: &Graph, mut layers: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
    let mut place = vec![0.0; graph.nodes.len()];
    let mut neighbours = vec![Vec::new(); graph.nodes.len()];
    for edge in &graph.edges {
        neighbours[edge.from].push(edge.to);
        neighbours[edge.to].push(edge.from);
    }
    let settle = |layer: &[usize], place: &mut Vec<f64>| {
        for (row, ix) in layer.iter().enumerate() {
            place[*ix] = (row as f64 + 0.5) / layer.len() as f64;
        }
    };
    for layer in &layers {
        settle(layer, &mut place);
    }
    for _ in 0..4 {
        for layer in &mut layers {
            let mean = |ix: usize| {
                let near = &neighbours[ix];
                if near.is_empty() {
                    place[ix]
                } else {
                    near.iter().map(|n| place[*n]).sum::<f64>() / near.len() as f64
                }
            };
            let mut keyed: Vec<(f64, usize)> = layer.iter().map(|ix| (mean(*ix), *ix)).collect();
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            *layer = keyed.into_iter().map(|(_, ix)| ix).collect();
            settle(layer, &mut place);
        }
    }
    layers
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diamond() -> Graph {
        let node = |title: &str| Node {
            title: title.into(),
            note: "2 nodes".into(),
        };
        let edge = |from, to| Edge {
            from,
            to,
            label: String::new(),
            data: from != 1,
        };
        Graph {
            name: "d<>".into(),
            nodes: ["a", "b", "c", "d"].map(node).into(),
            edges: vec![edge(0, 1), edge(0, 2), edge(1, 3), edge(2, 3)],
        }
    }

    #[test]
    fn layers_follow_needs() {
        assert_eq!(layers(&diamond()), [vec![0], vec![1, 2], vec![3]]);
    }

    #[test]
    fn every_form_names_every_box() {
        let graph = diamond();
        for text in [graph.dot(), graph.mermaid(), graph.svg()] {
            for node in &graph.nodes {
                assert!(text.contains(&node.title), "{text}");
            }
        }
        assert!(graph.svg().contains("d&lt;&gt;"));
        assert!(graph.dot().contains("style=dashed"));
    }
}
