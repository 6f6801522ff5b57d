//! The largest free block over time, as an SVG.

use std::fmt::{self, Write as _};

use crate::{ALLOCATORS, MIN_BLOCK_BYTES, ratio, size};

/// One load: a curve for each allocator.
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) total_bytes: usize,
    pub(crate) curves: Vec<Vec<usize>>,
}

/// The colour and the dashes of each curve.
const STROKES: [(&str, &str); 4] =
    [("#d7301f", "none"), ("#252525", "none"), ("#969696", "3 2"), ("#2c7fb8", "none")];

/// How far below the one before it a curve is drawn, so that curves that coincide are all seen.
const APART: f64 = 2.0;

const COLUMNS: usize = 3;
const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 62.0;
const TOP: f64 = 70.0;
const GAP_X: f64 = 76.0;
const GAP_Y: f64 = 64.0;

/// Draws the panels in rows, with one legend.
pub(crate) fn draw(panels: &[Panel], requests: usize) -> String {
    let mut svg = String::new();
    write(&mut svg, panels, requests).expect("a string takes everything");
    svg
}

fn write(svg: &mut String, panels: &[Panel], requests: usize) -> fmt::Result {
    let rows = panels.len().div_ceil(COLUMNS);
    let width = LEFT + place(COLUMNS) * (WIDTH + GAP_X) - GAP_X + 24.0;
    let height = TOP + place(rows) * (HEIGHT + GAP_Y);
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">"#
    )?;
    writeln!(svg, r##"<rect width="{width}" height="{height}" fill="#fff"/>"##)?;
    let title = "Largest free block over time, one thread, requests of 256 B to 16 KiB";
    writeln!(svg, r#"<text x="{LEFT}" y="20" font-size="14" font-weight="bold">{title}</text>"#)?;
    for (index, (name, (colour, dashes))) in ALLOCATORS.iter().zip(STROKES).enumerate() {
        let x = LEFT + place(index) * 150.0;
        writeln!(
            svg,
            r#"<path d="M{x} 36h24" stroke="{colour}" stroke-width="1.5" stroke-dasharray="{dashes}"/><text x="{}" y="40">{name}</text>"#,
            x + 30.0
        )?;
    }
    for (index, panel) in panels.iter().enumerate() {
        let x = LEFT + place(index % COLUMNS) * (WIDTH + GAP_X);
        let y = TOP + place(index / COLUMNS) * (HEIGHT + GAP_Y);
        writeln!(svg, r#"<g transform="translate({x} {y})">"#)?;
        write_panel(svg, panel, requests)?;
        writeln!(svg, "</g>")?;
    }
    writeln!(svg, "</svg>")
}

fn write_panel(svg: &mut String, panel: &Panel, requests: usize) -> fmt::Result {
    writeln!(svg, r#"<text y="-8" font-weight="bold">{}</text>"#, panel.title)?;
    // Every second power of two, and zero below the smallest block.
    let orders = (panel.total_bytes / MIN_BLOCK_BYTES).ilog2() + 1;
    let height_of = |bytes: usize| {
        let above = (bytes / MIN_BLOCK_BYTES).checked_ilog2().map_or(0, |order| order + 1);
        HEIGHT * (1.0 - f64::from(above) / f64::from(orders))
    };
    for order in (0..orders).rev().step_by(2) {
        let bytes = MIN_BLOCK_BYTES << order;
        let y = height_of(bytes);
        writeln!(
            svg,
            r##"<path d="M0 {y:.1}h{WIDTH}" stroke="#ddd"/><text x="-6" y="{:.1}" text-anchor="end">{}</text>"##,
            y + 4.0,
            size(bytes)
        )?;
    }
    writeln!(svg, r##"<path d="M0 0V{HEIGHT}H{WIDTH}" fill="none" stroke="#666"/>"##)?;
    for thirds in 0..=3 {
        writeln!(
            svg,
            r#"<text x="{}" y="{}" text-anchor="middle">{}</text>"#,
            WIDTH * place(thirds) / 3.0,
            HEIGHT + 15.0,
            requests * thirds / 3
        )?;
    }
    let middle = WIDTH / 2.0;
    writeln!(
        svg,
        r#"<text x="{middle}" y="{}" text-anchor="middle">requests</text>"#,
        HEIGHT + 30.0
    )?;
    for (index, (curve, (colour, dashes))) in panel.curves.iter().zip(STROKES).enumerate().rev() {
        write!(
            svg,
            r#"<path fill="none" stroke="{colour}" stroke-width="1.5" stroke-dasharray="{dashes}" transform="translate(0 {})" d="M0 0"#,
            APART * place(index)
        )?;
        let mut before = panel.total_bytes;
        for (sample, &bytes) in curve.iter().enumerate().filter(|&(_, &bytes)| {
            let is_new = bytes != before;
            before = bytes;
            is_new
        }) {
            let x = WIDTH * ratio(sample + 1, curve.len());
            write!(svg, "H{x:.1}V{:.1}", height_of(bytes))?;
        }
        writeln!(svg, r#"H{WIDTH}"/>"#)?;
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "a handful")]
fn place(index: usize) -> f64 {
    index as f64
}
