//! Charts as inline SVG. Places across are in percent and text is in pixels, so a chart fits a phone without small print.

use std::fmt::Write;

/// Text for HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Opens a chart of a height in pixels, with the words for those who do not see it.
fn open(id: &str, title: &str, description: &str, height: usize) -> String {
    let (title, description) = (escape(title), escape(description));
    format!(
        "<svg role=\"img\" height=\"{height}\" aria-labelledby=\"{id}-t {id}-d\"><title id=\"{id}-t\">{title}</title><desc id=\"{id}-d\">{description}</desc>"
    )
}

/// A line of a bar chart: its label, parts from left to right (class and value), and what stands at its end.
pub struct Bar {
    pub label: String,
    pub parts: Vec<(&'static str, f64)>,
    pub text: String,
}

/// Where labels end and values begin, percent of the width.
const LEFT: f64 = 40.0;
const RIGHT: f64 = 83.0;

/// A name, cut to the room there is on a phone; whole for those who point at it.
fn label(name: &str) -> String {
    const MOST: usize = 19;
    if name.chars().count() <= MOST {
        return escape(name);
    }
    let cut: String = name.chars().take(MOST - 1).collect();
    format!("{}…<title>{}</title>", escape(&cut), escape(name))
}

/// Horizontal bars, one below the other, on one scale.
pub fn bars(id: &str, title: &str, description: &str, rows: &[Bar]) -> String {
    const ROW: usize = 26;
    let total = |bar: &Bar| bar.parts.iter().map(|part| part.1).sum::<f64>();
    let largest = rows.iter().map(total).fold(0.0, f64::max);
    let scale = if largest > 0.0 { (RIGHT - LEFT) / largest } else { 0.0 };
    let mut out = open(id, title, description, ROW * rows.len().max(1));
    for (index, bar) in rows.iter().enumerate() {
        let y = ROW * index;
        let _ = write!(out, "<text x=\"0\" y=\"{}\">{}</text>", y + 18, label(&bar.label));
        let _ = write!(out, "<rect class=\"track\" x=\"{LEFT}%\" y=\"{}\" width=\"{}%\" height=\"16\" rx=\"2\"/>", y + 5, RIGHT - LEFT);
        let mut x = LEFT;
        for (class, value) in &bar.parts {
            let width = value * scale;
            let _ = write!(out, "<rect class=\"{class}\" x=\"{x:.3}%\" y=\"{}\" width=\"{width:.3}%\" height=\"16\"/>", y + 5);
            x += width;
        }
        let _ = write!(out, "<text x=\"100%\" y=\"{}\" text-anchor=\"end\">{}</text>", y + 18, escape(&bar.text));
    }
    out + "</svg>"
}

/// What the colours of a chart mean.
pub fn key(entries: &[(&str, &str)]) -> String {
    let entry = |(class, name): &(&str, &str)| {
        format!(
            "<li><svg aria-hidden=\"true\" viewBox=\"0 0 12 12\"><rect class=\"{class}\" width=\"12\" height=\"12\" rx=\"2\"/></svg>{}</li>",
            escape(name)
        )
    };
    format!("<ul class=\"key\">{}</ul>", entries.iter().map(entry).collect::<String>())
}

/// Rows of cells whose shade is their share of the largest value.
pub fn heatmap(id: &str, title: &str, description: &str, rows: &[(String, Vec<f64>)]) -> String {
    const ROW: usize = 22;
    let largest = rows.iter().flat_map(|row| &row.1).copied().fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let columns = rows.iter().map(|row| row.1.len()).max().unwrap_or(1).max(1);
    let width = (100.0 - LEFT) / columns as f64;
    let mut out = open(id, title, description, ROW * rows.len() + 24);
    for (index, (name, values)) in rows.iter().enumerate() {
        let y = ROW * index;
        let _ = write!(out, "<text x=\"0\" y=\"{}\">{}</text>", y + 15, label(name));
        let _ = write!(out, "<rect class=\"track\" x=\"{LEFT}%\" y=\"{y}\" width=\"{}%\" height=\"{}\"/>", 100.0 - LEFT, ROW - 2);
        for (t, value) in values.iter().enumerate() {
            let (x, shade) = (LEFT + width * t as f64, value / largest);
            let _ = write!(
                out,
                "<rect class=\"one\" x=\"{x:.3}%\" y=\"{y}\" width=\"{width:.3}%\" height=\"{}\" fill-opacity=\"{shade:.3}\"><title>{}, t = {}: {value:.4}</title></rect>",
                ROW - 2,
                escape(name),
                t + 1
            );
        }
    }
    let y = ROW * rows.len() + 14;
    let _ = write!(out, "<text class=\"soft\" x=\"{LEFT}%\" y=\"{y}\">t = 1</text>");
    if columns > 1 {
        let _ = write!(out, "<text class=\"soft\" x=\"100%\" y=\"{y}\" text-anchor=\"end\">t = {columns}</text>");
    }
    out + "</svg>"
}

/// A histogram over a range, with a mark at one value of it. The outermost bins hold what lies outside; they are pale and end at the top.
pub fn histogram(id: &str, title: &str, description: &str, counts: &[u64], [low, high]: [f32; 2], mark: f32) -> String {
    const HEIGHT: usize = 84;
    let inner = counts.get(1..counts.len().saturating_sub(1)).unwrap_or(counts);
    let largest = inner.iter().copied().max().unwrap_or(0).max(1) as f64;
    let width = 100.0 / counts.len().max(1) as f64;
    let place = |value: f32| f64::from((value - low) / (high - low)) * 100.0;
    let mut out = open(id, title, description, HEIGHT + 20);
    for (index, &count) in counts.iter().enumerate() {
        let height = HEIGHT as f64 * (count as f64 / largest).min(1.0);
        let class = if index == 0 || index + 1 == counts.len() { "pale" } else { "one" };
        let (x, y) = (width * index as f64, HEIGHT as f64 - height);
        let _ = write!(out, "<rect class=\"{class}\" x=\"{x:.3}%\" y=\"{y:.2}\" width=\"{width:.3}%\" height=\"{height:.2}\"/>");
    }
    let _ = write!(out, "<line class=\"axis\" x1=\"0\" x2=\"100%\" y1=\"{HEIGHT}\" y2=\"{HEIGHT}\"/>");
    let x = place(mark);
    let _ = write!(out, "<line class=\"mark\" x1=\"{x:.2}%\" x2=\"{x:.2}%\" y1=\"0\" y2=\"{}\"/>", HEIGHT + 4);
    for (value, anchor) in [(low, "start"), (0.0, "middle"), (high, "end")] {
        let text = value.to_string().replace('-', "−");
        let _ = write!(out, "<text class=\"soft\" x=\"{:.2}%\" y=\"{}\" text-anchor=\"{anchor}\">{text}</text>", place(value), HEIGHT + 17);
    }
    out + "</svg>"
}

/// A point of a curve with the ends of its interval, all in 0..=1.
pub struct Point {
    pub x: f64,
    pub label: String,
    pub value: f64,
    pub interval: [f64; 2],
}

/// A curve over points from left to right; `x` is in 0..=1, the vertical scale is that of the intervals.
pub fn curve(id: &str, title: &str, description: &str, points: &[Point]) -> String {
    const HEIGHT: f64 = 220.0;
    const FROM: f64 = 13.0;
    const TO: f64 = 97.0;
    let low = points.iter().map(|point| point.interval[0]).fold(1.0, f64::min);
    let high = points.iter().map(|point| point.interval[1]).fold(0.0, f64::max);
    let step = [0.01, 0.02, 0.05, 0.1, 0.2].into_iter().find(|step| (high - low) / step <= 5.0).unwrap_or(0.25);
    let (low, high) = ((low / step).floor() * step, ((high / step).ceil() * step).min(1.0));
    let x = |point: &Point| FROM + (TO - FROM) * point.x;
    let y = |value: f64| 8.0 + (HEIGHT - 16.0) * (1.0 - (value - low) / (high - low).max(1e-9));
    let mut out = open(id, title, description, HEIGHT as usize + 44);
    let lines = ((high - low) / step).round() as usize;
    for value in (0..=lines).map(|line| low + step * line as f64) {
        let at = y(value);
        let _ = write!(out, "<line class=\"grid\" x1=\"{FROM}%\" x2=\"100%\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
        let _ = write!(out, "<text class=\"soft\" x=\"0\" y=\"{:.1}\">{:.0} %</text>", at + 4.0, 100.0 * value);
    }
    for pair in points.windows(2) {
        let [a, b] = [&pair[0], &pair[1]];
        let _ = write!(
            out,
            "<line class=\"whisker\" x1=\"{:.2}%\" x2=\"{:.2}%\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
            x(a),
            x(b),
            y(a.value),
            y(b.value)
        );
    }
    for point in points {
        let at = x(point);
        let [low, high] = point.interval.map(y);
        let _ = write!(
            out,
            "<line class=\"whisker\" stroke-opacity=\".45\" x1=\"{at:.2}%\" x2=\"{at:.2}%\" y1=\"{low:.1}\" y2=\"{high:.1}\"/>"
        );
        let _ = write!(out, "<circle class=\"one\" cx=\"{at:.2}%\" cy=\"{:.1}\" r=\"4\"/>", y(point.value));
        let _ = write!(
            out,
            "<text class=\"soft\" x=\"{at:.2}%\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            HEIGHT + 16.0,
            escape(&point.label)
        );
    }
    let _ = write!(out, "<text class=\"soft\" x=\"55%\" y=\"{}\" text-anchor=\"middle\">T</text>", HEIGHT + 36.0);
    out + "</svg>"
}

/// A table that scrolls by itself where it is too wide, behind a summary; the first cell of a row names it.
pub fn table(caption: &str, heads: &[&str], rows: &[Vec<String>]) -> String {
    let caption = escape(caption);
    let heads: String = heads.iter().map(|head| format!("<th scope=\"col\">{}</th>", escape(head))).collect();
    let row = |cells: &Vec<String>| {
        let cell = |(index, cell): (usize, &String)| match index {
            0 => format!("<th scope=\"row\">{}</th>", escape(cell)),
            _ => format!("<td>{}</td>", escape(cell)),
        };
        format!("<tr>{}</tr>", cells.iter().enumerate().map(cell).collect::<String>())
    };
    let rows: String = rows.iter().map(row).collect();
    format!(
        "<details><summary>Numbers as a table</summary><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\"><table><caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )
}
