//! The audit's chain: by it one finds whether what was done still stands as it was written.
//!
//! Rows are sealed in batches. A batch's head is the SHA-256 of the head before it (32 bytes; 32 zeros before the first) and its
//! rows' bytes, in their order. A row's bytes are its fields in the order of [`Row`]: numbers as 8 bytes, the highest first; the
//! time in microseconds since 1970; the project as a 1 and its 16 bytes, or a 0; texts as their length in bytes and their UTF-8.
//! So no two lists of rows have the same bytes, and whoever keeps a head elsewhere can prove all rows before it.

use chrono::{DateTime, Utc};
use farm_types::digest::Hasher;
use farm_types::{Digest, ProjectId};

/// What stands before the first row.
pub fn beginning() -> Digest {
    Digest::from([0; 32])
}

/// A row of the audit, as it is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its number.
    pub id: i64,
    /// The database's own number, of which its transaction's is.
    pub cluster: i64,
    /// Its transaction's number.
    pub xid: i64,
    /// When it was done.
    pub at: DateTime<Utc>,
    /// In which project; `None`: the farm's.
    pub project: Option<ProjectId>,
    /// By whom.
    pub principal: String,
    /// The first characters of the token that was shown.
    pub token_hint: String,
    /// From where.
    pub address: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub subject: String,
    /// What else there is, as JSON in the database's own writing.
    pub detail: String,
}

/// The head after these rows.
pub fn head(previous: Digest, rows: &[Row]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(previous.as_bytes());
    for row in rows {
        for number in [row.id, row.cluster, row.xid, row.at.timestamp_micros()] {
            hasher.update(&number.to_be_bytes());
        }
        match row.project {
            Some(project) => {
                hasher.update(&[1]);
                hasher.update(project.as_uuid().as_bytes());
            }
            None => hasher.update(&[0]),
        }
        for text in [&row.principal, &row.token_hint, &row.address, &row.action, &row.subject, &row.detail] {
            hasher.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            hasher.update(text.as_bytes());
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let texts = prop::array::uniform6("[a-c]{0,3}");
        let numbers = (0..4_i64, 0..2_i64, 0..4_i64, 0..4_i64);
        let row = (numbers, prop::option::of(0..2_u128), texts).prop_map(
            |((id, cluster, xid, at), project, texts)| {
                let [principal, token_hint, address, action, subject, detail] = texts;
                Row {
                    id,
                    cluster,
                    xid,
                    at: DateTime::from_timestamp_micros(at).unwrap(),
                    project: project.map(|project| ProjectId::from(uuid::Uuid::from_u128(project))),
                    principal,
                    token_hint,
                    address,
                    action,
                    subject,
                    detail,
                }
            },
        );
        prop::collection::vec(row, 0..6)
    }

    proptest! {
        /// A row that was changed, left out, put in or moved is another list; and so is a text that moves to its neighbour.
        #[test]
        fn two_lists_have_one_head_only_if_they_are_the_same(one in rows(), other in rows()) {
            prop_assert_eq!(head(beginning(), &one) == head(beginning(), &other), one == other);
        }

        #[test]
        fn what_is_done_to_a_row_is_found(rows in rows(), place in any::<prop::sample::Index>(), what in 0..5_u8) {
            prop_assume!(!rows.is_empty());
            let at = place.index(rows.len());
            let mut other = rows.clone();
            match what {
                0 => drop(other.remove(at)),
                1 => other.insert(at, rows[at].clone()),
                2 => other[at].detail.push(' '),
                3 => other[at].at += chrono::TimeDelta::microseconds(1),
                _ => {
                    let next = (at + 1) % other.len();
                    other.swap(at, next);
                    prop_assume!(other != rows);
                }
            }
            prop_assert_ne!(head(beginning(), &rows), head(beginning(), &other));
        }

        #[test]
        fn a_head_holds_all_before_it(first in rows(), changed in rows(), then in rows()) {
            prop_assume!(first != changed);
            let after = |rows: &[Row]| head(head(beginning(), rows), &then);
            prop_assert_ne!(after(&first), after(&changed));
        }
    }

    /// Whoever reckons it with other means finds the same.
    #[test]
    fn the_bytes_are_those_that_are_written_down() {
        let row = Row {
            id: 1,
            cluster: 2,
            xid: 3,
            at: DateTime::from_timestamp_micros(4).unwrap(),
            project: None,
            principal: "ada".to_owned(),
            token_hint: String::new(),
            address: String::new(),
            action: "x".to_owned(),
            subject: String::new(),
            detail: "{}".to_owned(),
        };
        let mut bytes = vec![0; 32];
        for number in 1..=4_u64 {
            bytes.extend(number.to_be_bytes());
        }
        bytes.push(0);
        for text in ["ada", "", "", "x", "", "{}"] {
            bytes.extend(u64::try_from(text.len()).unwrap().to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        assert_eq!(head(beginning(), &[row]), Digest::of(&bytes));
    }
}
