//! The picture: kinds on an ellipse around `none`, `present` and `huge present`, an arrow for each transition.

use std::collections::BTreeSet;
use std::fmt::Write;

use ptefuzz_core::entry::EntryKind;
use ptefuzz_core::entry::carry::{Form, transitions};

use super::Graph;

const WIDTH: f64 = 1640.0;
const HEIGHT: f64 = 1180.0;
/// Half the size of a node.
const NODE: (f64, f64) = (92.0, 17.0);
/// Most ops that an arrow's label names; the rest is in its tooltip.
const NAMED: usize = 3;

const STYLE: &str = "text{font:13px sans-serif;fill:#222;text-anchor:middle}\
.label{font-size:10px;fill:#345;paint-order:stroke;stroke:#fff;stroke-width:3px}\
.node{fill:#eef3fa;stroke:#345;stroke-width:1.2}\
.hub{fill:#dfeaf7;stroke:#123;stroke-width:2}\
.reached{fill:none;stroke:#4a6fa5;stroke-width:1.1}\
.missing{fill:none;stroke:#c9ced6;stroke-width:0.9;stroke-dasharray:5 4}\
g.arrow:hover path{stroke:#d1495b;stroke-width:2.4}g.arrow:hover text{fill:#d1495b;font-weight:bold}";

type Point = (f64, f64);

/// What most arrows begin or end at.
const HUBS: [Form; 3] =
    [Form::new(false, EntryKind::None), Form::new(false, EntryKind::Present), Form::new(true, EntryKind::Present)];

/// The graph as a self-contained SVG document.
pub(super) fn draw(graph: &Graph) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\">\n\
         <style>{STYLE}</style>\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">\
         <path d=\"M0 0L8 4L0 8z\" fill=\"#4a6fa5\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let reach = graph.reach();
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"24\">{} of {} known transitions reached by {} cases; dashed: not reached</text>",
        WIDTH / 2.0,
        reach.reached,
        reach.transitions,
        reach.cases
    );
    let around = around();
    let ends = |(from, to): (Form, Form)| (place(&around, from), place(&around, to));
    for (from, to) in transitions().filter(|pair| !graph.kinds.contains_key(pair)) {
        arrow(&mut svg, ends((from, to)), "missing", "", &format!("{from} &#8594; {to}: not reached"));
    }
    for ((from, to), ops) in &graph.kinds {
        let ops: Vec<&str> = ops.iter().copied().collect();
        let more = ops.len().saturating_sub(NAMED);
        let mut label = ops[..ops.len() - more].join(", ");
        if more > 0 {
            let _ = write!(label, ", +{more}");
        }
        let title = format!("{from} &#8594; {to}: {}", ops.join(", "));
        arrow(&mut svg, ends((*from, *to)), "reached", &label, &title);
    }
    for form in HUBS.iter().chain(&around) {
        let (x, y) = place(&around, *form);
        let class = if HUBS.contains(form) { "hub" } else { "node" };
        let (w, h) = NODE;
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{:.0}\" y=\"{:.0}\" width=\"{:.0}\" height=\"{:.0}\" rx=\"9\"/>\
             <text x=\"{x:.0}\" y=\"{:.0}\">{form}</text>",
            x - w,
            y - h,
            2.0 * w,
            2.0 * h,
            y + 4.5,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Every kind that stands around the hubs, each level in the order of its numbers, so that families are neighbours.
fn around() -> Vec<Form> {
    let known: BTreeSet<Form> = transitions().flat_map(|(from, to)| [from, to]).collect();
    known.into_iter().filter(|form| !HUBS.contains(form)).collect()
}

/// Where a kind stands: the hubs in the middle, the others around them.
fn place(around: &[Form], form: Form) -> Point {
    let (cx, cy) = (WIDTH / 2.0, HEIGHT / 2.0 + 26.0);
    if let Some(hub) = HUBS.iter().position(|h| *h == form) {
        return [(cx - 260.0, cy), (cx + 250.0, cy + 90.0), (cx + 120.0, cy - 150.0)][hub];
    }
    let at = around.iter().position(|f| *f == form).unwrap_or(0) as f64 / around.len() as f64;
    let angle = (at - 0.25) * std::f64::consts::TAU;
    (cx + angle.cos() * (WIDTH / 2.0 - 120.0), cy + angle.sin() * (HEIGHT / 2.0 - 86.0))
}

/// One arrow with its label and, for who points at it, everything.
fn arrow(svg: &mut String, (from, to): (Point, Point), class: &str, label: &str, title: &str) {
    let (path, at) = if from == to { turn(from) } else { bend(from, to) };
    let tip = if class == "reached" { " marker-end=\"url(#tip)\"" } else { "" };
    let _ = write!(svg, "<g class=\"arrow\"><title>{title}</title><path class=\"{class}\" d=\"{path}\"{tip}/>");
    if !label.is_empty() {
        let _ = write!(svg, "<text class=\"label\" x=\"{:.0}\" y=\"{:.0}\">{label}</text>", at.0, at.1);
    }
    svg.push_str("</g>\n");
}

/// From a kind to itself: a loop above the node.
fn turn((x, y): Point) -> (String, Point) {
    let top = y - NODE.1;
    let path = format!(
        "M{:.0} {top:.0}C{:.0} {:.0} {:.0} {:.0} {:.0} {top:.0}",
        x - 24.0,
        x - 34.0,
        top - 40.0,
        x + 34.0,
        top - 40.0,
        x + 24.0
    );
    (path, (x, top - 33.0))
}

/// From one kind to another: a curve to the right of the straight line, so that the way back does not cover it. The
/// label stands in the first third, where arrows that meet in a hub are still apart.
fn bend(a: Point, b: Point) -> (String, Point) {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let length = dx.hypot(dy).max(1.0);
    let off = (length * 0.08).clamp(14.0, 60.0);
    let control = ((a.0 + b.0) / 2.0 - dy / length * off, (a.1 + b.1) / 2.0 + dx / length * off);
    let (start, end) = (border(a, control), border(b, control));
    let path = format!("M{:.0} {:.0}Q{:.0} {:.0} {:.0} {:.0}", start.0, start.1, control.0, control.1, end.0, end.1);
    let t: f64 = 0.36;
    let along = |s: f64, c: f64, e: f64| (1.0 - t).powi(2) * s + 2.0 * t * (1.0 - t) * c + t * t * e;
    (path, (along(start.0, control.0, end.0), along(start.1, control.1, end.1)))
}

/// Where the line from the middle of a node towards a point leaves the node.
fn border(node: Point, towards: Point) -> Point {
    let (dx, dy) = (towards.0 - node.0, towards.1 - node.1);
    let scale = (NODE.0 / dx.abs().max(0.001)).min(NODE.1 / dy.abs().max(0.001)).min(1.0);
    (node.0 + dx * scale, node.1 + dy * scale)
}
