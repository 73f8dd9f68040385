//! "Did you mean": the nearest of a few known words.

/// The word of `known` that is nearest to `written`, if it is near enough to be meant: at most two edits
/// and fewer than half of the word. Of equally near ones the first.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|word| (edits(written, word), word))
        .filter(|&(edits, word)| edits <= 2 && edits * 2 < word.chars().count())
        .min_by_key(|&(edits, _)| edits)
        .map(|(_, word)| word)
}

/// Edits (insert, delete, replace, swap of neighbours) from `a` to `b`: the optimal string alignment
/// distance.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_understood_and_nonsense_is_not() {
        assert_eq!(nearest("arm46", ["amd64", "arm64", "arm"]), Some("arm64"));
        assert_eq!(nearest("adm64", ["amd64", "arm64"]), Some("amd64"));
        assert_eq!(nearest("sparc", ["amd64", "arm64"]), None);
        assert_eq!(nearest("", ["arm"]), None);
    }
}
