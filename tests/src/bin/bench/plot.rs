//! The results as bars: one panel for each workload that all paths can serve, with a scale of its
//! own.

use std::fmt::Write as _;

use crate::kind::Behind;
use crate::paths::Paths;
use crate::samples::Samples;
use crate::work::Work;

const LABELS: usize = 190;
const PANEL: usize = 230;
const GAP: usize = 20;
/// The width of a bar. Its number follows it.
const BAR: f64 = 165.0;
const LINE: usize = 17;
const HEAD: usize = 26;
/// The number of panels side by side.
const COLUMNS: usize = 3;
const COLOURS: [&str; 8] = ["#9aa0a6", "#5b8db8", "#3b6ea5", "#2e8b57", "#8e6bbf", "#e08a3c", "#c4572b", "#b8a13c"];

/// Returns the picture as SVG.
pub fn svg(paths: &Paths) -> String {
    let mut body = String::new();
    let mut y = 10;
    y = section(
        &mut body,
        y,
        paths,
        "The proxy's CPU time, µs per request (less is better)",
        |samples| samples.cpu(),
        |v| format!("{v:.2}"),
    );
    y = section(
        &mut body,
        y + 20,
        paths,
        "Thousand requests per second (more is better)",
        |samples| Some(samples.median(|sample| sample.rate) / 1000.0),
        |v| format!("{v:.0}"),
    );
    let width = LABELS + COLUMNS * (PANEL + GAP);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{y}\" viewBox=\"0 0 {width} {y}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         {body}</svg>\n"
    )
}

/// Draws one quantity for all workloads and returns the lower end.
fn section(
    out: &mut String,
    top: usize,
    paths: &Paths,
    heading: &str,
    number: impl Fn(&Samples) -> Option<f64>,
    show: impl Fn(f64) -> String,
) -> usize {
    let _ = writeln!(out, "<text x=\"8\" y=\"{}\" font-size=\"15\" font-weight=\"600\">{heading}</text>", top + 14);
    let top = top + 26;
    let rows: Vec<usize> = (0..paths.rows.len()).filter(|&i| paths.rows[i].behind == Behind::Server).collect();
    let of_all = |(_, samples): &&(Work, Vec<Samples>)| rows.iter().all(|&row| !samples[row].is_empty());
    let panels: Vec<&(Work, Vec<Samples>)> = paths.results.iter().filter(of_all).collect();
    let height = HEAD + rows.len() * LINE + 8;
    for (i, (work, samples)) in panels.iter().enumerate() {
        let (x, y) = (LABELS + i % COLUMNS * (PANEL + GAP), top + i / COLUMNS * height);
        let _ = writeln!(out, "<text x=\"{x}\" y=\"{}\" font-weight=\"600\">{}</text>", y + 18, work.title());
        let most = samples.iter().filter_map(&number).fold(f64::MIN_POSITIVE, f64::max);
        for (row, &way) in rows.iter().enumerate() {
            let (name, samples) = (&paths.rows[way].name, &samples[way]);
            let y = y + HEAD + row * LINE;
            if i % COLUMNS == 0 {
                let name = name.replace('&', "&amp;").replace('<', "&lt;");
                let _ = writeln!(out, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>", x - 8, y + 11);
            }
            let Some(value) = number(samples) else {
                let _ = writeln!(out, "<text x=\"{x}\" y=\"{}\" fill=\"#888\">no proxy</text>", y + 11);
                continue;
            };
            let length = value / most * BAR;
            let colour = COLOURS[row % COLOURS.len()];
            let _ = writeln!(
                out,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{}</text>",
                LINE - 4,
                x as f64 + length + 4.0,
                y + 11,
                show(value)
            );
        }
    }
    top + panels.len().div_ceil(COLUMNS) * height
}
