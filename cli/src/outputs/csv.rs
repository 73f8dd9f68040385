//! The fields of one `--output`, as buildx reads them: a record of RFC 4180.

/// Splits a record at its commas. A field that begins with a quotation mark ends at the next one that stands alone; two stand
/// for one.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn fields(record: &str) -> Result<Vec<String>, &'static str> {
    let mut out = Vec::new();
    let mut rest = record;
    loop {
        let Some(mut quoted) = rest.strip_prefix('"') else {
            let (field, after) = match rest.split_once(',') {
                Some((field, after)) => (field, Some(after)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err("a quotation mark within a field: put the whole field into quotation marks");
            }
            out.push(field.to_owned());
            match after {
                Some(after) => rest = after,
                None => return Ok(out),
            }
            continue;
        };
        let mut field = String::new();
        loop {
            let Some((part, after)) = quoted.split_once('"') else {
                return Err("a quotation mark that is not closed");
            };
            field.push_str(part);
            match after.strip_prefix('"') {
                Some(more) => {
                    field.push('"');
                    quoted = more;
                }
                None => {
                    quoted = after;
                    break;
                }
            }
        }
        out.push(field);
        if quoted.is_empty() {
            return Ok(out);
        }
        rest = quoted.strip_prefix(',').ok_or("after a closing quotation mark comes a comma, or the end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_in_quotation_marks_may_hold_commas_and_quotation_marks() {
        let read = |text: &str| fields(text).map(|fields| fields.join("|"));
        assert_eq!(read("type=local,dest=a"), Ok("type=local|dest=a".into()));
        assert_eq!(read("type=oci,\"name=a,b\",\"dest=x\"\"y\""), Ok("type=oci|name=a,b|dest=x\"y".into()));
        assert_eq!(read("a,,"), Ok("a||".into()));
        for wrong in ["\"a", "a\"b", "\"a\"b"] {
            assert!(fields(wrong).is_err(), "{wrong}");
        }
    }
}
