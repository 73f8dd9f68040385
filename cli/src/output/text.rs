//! Text as a terminal shows it; what isn't of terminals only is in `farm_types::text`.

use chrono::{DateTime, SecondsFormat, Utc};
pub use farm_types::text::{
    ago, ahead, bytes, count, first_line, harmless, short_digest, span, step_number, waiting,
};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// The text in at most `width` columns, with an ellipsis where something is missing.
pub fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut left = width.saturating_sub(1);
    let mut kept = String::new();
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if wide > left {
            break;
        }
        left -= wide;
        kept.push(c);
    }
    kept.push('…');
    kept
}

/// Rows with their columns aligned, two blanks between them; the last column is as it is. Empty cells at a
/// row's end leave no blanks.
pub fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let width = |text: &str| text.chars().count();
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|i| rows.iter().filter_map(|row| row.get(i)).map(|c| width(c)).max().unwrap_or(0))
        .collect();
    rows.iter()
        .map(|row| {
            let mut line = String::new();
            // A column that is empty in every row takes no room.
            for (cell, &column) in row.iter().zip(&widths).filter(|&(_, &column)| column > 0) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', column - width(cell) + 2));
            }
            line.truncate(line.trim_end().len());
            line
        })
        .collect()
}

/// A time for scripts, RFC 3339 in UTC; `None`: there is none (0). Milliseconds since 1970.
pub(crate) fn time(ms: i64) -> Option<String> {
    let at = DateTime::<Utc>::from_timestamp_millis(ms).filter(|_| ms > 0)?;
    Some(at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_empty_ones_vanish() {
        let row = |cells: [&str; 3]| cells.map(ToOwned::to_owned).to_vec();
        assert_eq!(columns(&[row(["a", "", "x"]), row(["bbb", "", ""])]), ["a    x", "bbb"]);
    }
}
