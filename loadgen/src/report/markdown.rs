//! Tables for a pull request: what it is worth, what came out, and what was asked for.

use std::fmt::Write;

use super::{
    facts::{self, PERCENTILE_NAMES},
    json::Document,
};

pub(super) fn write(document: &Document) -> String {
    let (verdict, meaning) = (document.verdict.word(), facts::meaning(document));
    let mut text = format!("**loadgen: {verdict}** ({meaning})\n\n");
    for sentence in facts::conditions(document).iter().chain(&document.verdict_reasons) {
        writeln!(text, "* {}", escape(sentence)).expect("a string takes everything");
    }
    text.push('\n');
    let distributions = facts::distributions(document).into_iter().map(|(name, _, percentiles)| {
        [name.to_owned()].into_iter().chain(facts::percentile_times(percentiles)).collect()
    });
    let heading = [""].into_iter().chain(PERCENTILE_NAMES).map(str::to_owned).collect();
    table(&mut text, heading, distributions);
    let figures = facts::figures(document);
    let figures = figures.into_iter().map(|(name, value)| vec![name.to_owned(), value]);
    table(&mut text, ["figure", "value"].map(str::to_owned).into(), figures);
    text.push_str("<details><summary>Configuration</summary>\n\n");
    let facts = [
        ("target", document.target.clone()),
        ("started", facts::started_at(document)),
        ("loadgen", document.version.clone()),
    ];
    let rows = facts.into_iter().chain(document.config.texts());
    let rows = rows.map(|(name, value)| vec![name.to_owned(), value]);
    table(&mut text, ["setting", "value"].map(str::to_owned).into(), rows);
    text.push_str("</details>\n");
    text
}

/// Writes a table, all of whose columns but the first are aligned to the right.
pub(super) fn table(
    text: &mut String,
    heading: Vec<String>,
    rows: impl IntoIterator<Item = Vec<String>>,
) {
    let rule = (0..heading.len()).map(|column| if column == 0 { "---" } else { "---:" });
    let rule = rule.map(str::to_owned).collect();
    let body = rows.into_iter().map(|row| row.iter().map(|cell| escape(cell)).collect());
    for row in [heading, rule].into_iter().chain(body) {
        writeln!(text, "| {} |", row.join(" | ")).expect("a string takes everything");
    }
    text.push('\n');
}

/// Text that neither ends its cell nor becomes a tag.
pub(super) fn escape(cell: &str) -> String {
    let cell = cell.replace('&', "&amp;").replace('<', "&lt;").replace('|', "\\|");
    cell.replace(['\n', '\r'], " ")
}
