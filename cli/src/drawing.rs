//! A graph as DOT, Mermaid or SVG. Knows boxes and arrows, not pipelines.

use std::{collections::BTreeMap, fmt::Write as _};

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
const LANE_HEIGHT: f64 = 8.0;
const GAP_X: f64 = 84.0;
const GAP_Y: f64 = 22.0;
const MARGIN: f64 = 20.0;

/// Boxes in layers from left to right: a box stands one layer right of the last one that it needs, and within a layer the
/// boxes are ordered by the mean place of their neighbours (Sugiyama's barycentre method, a few sweeps). An arrow over several
/// layers has a lane in each of them, so that it goes past the boxes there.
struct Layout {
    /// x, y and width of each box, and after them of each lane.
    places: Vec<(f64, f64, f64)>,
    /// For each edge: its boxes, and the lanes between them.
    routes: Vec<Vec<usize>>,
    size: (f64, f64),
}

impl Layout {
    fn new(graph: &Graph) -> Self {
        let mut layers = layers(graph);
        let (routes, count) = route(graph, &mut layers);
        let layers = order(count, &routes, layers);
        let width = |ix: usize| {
            let node = graph.nodes.get(ix)?;
            let longest = node.title.chars().count().max(node.note.chars().count());
            Some((longest as f64 * CHAR + 24.0).max(80.0))
        };
        let height_of = |ix: usize| match ix < graph.nodes.len() {
            true => BOX_HEIGHT,
            false => LANE_HEIGHT,
        };
        let height_of_layer = |layer: &Vec<usize>| {
            let heights = layer.iter().map(|ix| height_of(*ix) + GAP_Y);
            heights.sum::<f64>() - GAP_Y
        };
        let height = layers.iter().map(height_of_layer).fold(0.0, f64::max);
        let mut places = vec![(0.0, 0.0, 0.0); count];
        let mut x = MARGIN;
        for layer in &layers {
            let widest = layer.iter().filter_map(|ix| width(*ix)).fold(0.0, f64::max);
            let mut y = MARGIN + (height - height_of_layer(layer)) / 2.0;
            for ix in layer {
                places[*ix] = (x, y, widest);
                y += height_of(*ix) + GAP_Y;
            }
            x += widest + GAP_X;
        }
        Self {
            places,
            routes,
            size: (x - GAP_X + MARGIN, height + 2.0 * MARGIN),
        }
    }

    /// The line of an edge, and where its label stands: in the middle of its last part.
    fn line(&self, route: &[usize]) -> (String, (f64, f64)) {
        let mut path = String::new();
        let mut label = (0.0, 0.0);
        let mut from: Option<(f64, f64)> = None;
        for (at, ix) in route.iter().enumerate() {
            let (x, y, width) = self.places[*ix];
            let is_box = at == 0 || at + 1 == route.len();
            let y = y + if is_box { BOX_HEIGHT } else { LANE_HEIGHT } / 2.0;
            match from {
                None => {
                    let _ = write!(path, "M{:.1},{y:.1}", x + width);
                }
                Some((x1, y1)) => {
                    let bend = (x - x1) / 2.0;
                    let _ = write!(
                        path,
                        " C{:.1},{y1:.1} {:.1},{y:.1} {x:.1},{y:.1}",
                        x1 + bend,
                        x - bend
                    );
                    label = ((x1 + x) / 2.0, (y1 + y) / 2.0 - 5.0);
                }
            }
            if at > 0 && !is_box {
                let _ = write!(path, " H{:.1}", x + width);
            }
            from = Some((x + width, y));
        }
        (path, label)
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
        for (edge, route) in graph.edges.iter().zip(&self.routes) {
            let (path, (label_x, label_y)) = self.line(route);
            let dash = if edge.data {
                ""
            } else {
                " stroke-dasharray=\"5 4\""
            };
            let _ = writeln!(
                svg,
                "<path d=\"{path}\" fill=\"none\" stroke=\"#5b6472\" stroke-width=\"1.2\"{dash} marker-end=\"url(#a)\"/>"
            );
            if !edge.label.is_empty() {
                let _ = writeln!(
                    svg,
                    "<text x=\"{label_x:.1}\" y=\"{label_y:.1}\" text-anchor=\"middle\" font-size=\"11\" fill=\"#5b6472\">{}</text>",
                    xml(&edge.label)
                );
            }
        }
        for (node, (x, y, width)) in graph.nodes.iter().zip(&self.places) {
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

/// The boxes and lanes of every edge, and how many of both there are. Edges of one box share their lanes.
fn route(graph: &Graph, layers: &mut [Vec<usize>]) -> (Vec<Vec<usize>>, usize) {
    let mut depth = vec![0; graph.nodes.len()];
    for (at, layer) in layers.iter().enumerate() {
        layer.iter().for_each(|ix| depth[*ix] = at);
    }
    let mut count = graph.nodes.len();
    let mut lanes = BTreeMap::new();
    let routes = graph.edges.iter().map(|edge| {
        let between = depth[edge.from] + 1..depth[edge.to];
        let between = between.map(|at| {
            *lanes.entry((edge.from, at)).or_insert_with(|| {
                layers[at].push(count);
                count += 1;
                count - 1
            })
        });
        let ends = std::iter::once(edge.from).chain(between);
        ends.chain([edge.to]).collect()
    });
    (routes.collect(), count)
}

fn order(count: usize, routes: &[Vec<usize>], mut layers: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
    let mut place = vec![0.0; count];
    let mut neighbours = vec![Vec::new(); count];
    for pair in routes.iter().flat_map(|route| route.windows(2)) {
        neighbours[pair[0]].push(pair[1]);
        neighbours[pair[1]].push(pair[0]);
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
    fn an_arrow_goes_past_the_boxes_between_its_ends() {
        let mut graph = diamond();
        graph.edges.push(Edge {
            from: 0,
            to: 3,
            label: String::new(),
            data: true,
        });
        let layout = Layout::new(&graph);
        let [first, lane, last] = layout.routes[4][..] else {
            panic!("{:?}", layout.routes);
        };
        assert_eq!((first, last), (0, 3));
        let y = layout.places[lane].1 + LANE_HEIGHT / 2.0;
        for (_, top, _) in &layout.places[1..3] {
            assert!(y < *top || y > top + BOX_HEIGHT, "{:?}", layout.places);
        }
        assert!(graph.svg().contains(" H"));
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
