//! When a schedule's time comes: five fields as in crontab(5), in UTC.
//!
//! Read here: croner, the well-kept library for it, brings ten crates of macros for seconds, years and calendars that no forge has.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike as _, Days, NaiveDate, NaiveDateTime, TimeDelta, Timelike as _, Utc};
use farm_types::Invalid;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// Names for whole lines.
const NAMED: [(&str, &str); 5] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
];
/// The longest time between two times that a line may have: 29 February over a year like 2100 (8 years), and some.
const MOST_DAYS: u64 = 366 * 9;

/// A line of crontab(5): minute, hour, day of the month, month, day of the week (0 and 7 are Sunday), each `*`, numbers, ranges,
/// lists and steps; months and days of the week also by their names. If both days are said, either will do. Times are UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    text: String,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both days are said.
    either: bool,
}

impl Cron {
    /// The first minute after a time that it means.
    pub fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let from = after.naive_utc() + TimeDelta::minutes(1);
        (0..MOST_DAYS).find_map(|days| {
            let date = from.date().checked_add_days(Days::new(days))?;
            let begin = if days == 0 { (from.hour(), from.minute()) } else { (0, 0) };
            let at = self.covers(date).then(|| self.first(date, begin))??;
            Some(at.and_utc())
        })
    }

    fn covers(&self, date: NaiveDate) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().num_days_from_sunday());
        has(self.months, date.month()) && if self.either { day || weekday } else { day && weekday }
    }

    /// The first time of a day, not before this hour and minute.
    fn first(&self, date: NaiveDate, begin: (u32, u32)) -> Option<NaiveDateTime> {
        let times = (begin.0..24).flat_map(|hour| (0..60).map(move |minute| (hour, minute)));
        let mut times = times.filter(|time| *time >= begin);
        let (hour, minute) =
            times.find(|(hour, minute)| has(self.hours, *hour) && has(self.minutes, *minute))?;
        date.and_hms_opt(hour, minute, 0)
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn has(set: u64, number: u32) -> bool {
    set >> number & 1 == 1
}

impl FromStr for Cron {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = |cure: String| Invalid::new("schedule", text, cure);
        let line = NAMED.iter().find(|(name, _)| *name == text).map_or(text, |(_, line)| line);
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            let cure = "write five fields: minute, hour, day of the month, month, day of the week, like \"0 3 * * *\" (each day at 3:00 UTC)";
            return Err(wrong(cure.to_owned()));
        };
        let read = |what: &str, field: &str, range: (u32, u32), names: &[&str]| {
            set(field, range, names).map_err(|part| {
                wrong(format!(
                    "{part:?} is no {what}; write numbers from {} to {}, or *, a-b, a,b, */n of them",
                    range.0, range.1
                ))
            })
        };
        let mut weekdays = read("day of the week", weekday, (0, 7), &WEEKDAYS)?;
        weekdays = (weekdays | weekdays >> 7) & 0x7f;
        let cron = Self {
            text: text.to_owned(),
            minutes: read("minute", minute, (0, 59), &[])?,
            hours: read("hour", hour, (0, 23), &[])?,
            days: read("day of the month", day, (1, 31), &[])?,
            months: read("month", month, (1, 12), &MONTHS)?,
            weekdays,
            either: !day.starts_with('*') && !weekday.starts_with('*'),
        };
        match cron.next(DateTime::UNIX_EPOCH) {
            Some(_) => Ok(cron),
            None => Err(wrong("that day never comes; write one that is in the calendar".to_owned())),
        }
    }
}

/// One field as the numbers that it means; the error is the part that means none.
fn set<'a>(field: &'a str, (least, most): (u32, u32), names: &[&str]) -> Result<u64, &'a str> {
    let number = |text: &str| {
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let named = named.and_then(|at| u32::try_from(at).ok()).map(|at| at + least);
        let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        let number = named.or_else(|| if is_number { text.parse().ok() } else { None });
        number.filter(|number| (least..=most).contains(number))
    };
    let mut all = 0;
    for part in field.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let bounds = match range.split_once('-') {
            _ if range == "*" => Some((least, most)),
            Some((from, to)) => number(from).zip(number(to)),
            // As cron has it, `3/5` goes on to the end.
            None => number(range).map(|one| (one, if step.is_some() { most } else { one })),
        };
        let step = match step {
            Some(step) => step.parse::<u32>().ok().filter(|step| (1..=most).contains(step)),
            None => Some(1),
        };
        let (Some((from, to)), Some(step)) = (bounds, step) else { return Err(part) };
        if from > to {
            return Err(part);
        }
        let mut one = from;
        while one <= to {
            all |= 1 << one;
            one += step;
        }
    }
    Ok(all)
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn next(line: &str, after: &str) -> String {
        let after = format!("{after}:00Z").parse().unwrap();
        line.parse::<Cron>().unwrap().next(after).unwrap().format("%FT%R").to_string()
    }

    #[test]
    fn the_next_time_is_found() {
        for (line, after, then) in [
            ("0 3 * * *", "2026-11-30T02:59", "2026-11-30T03:00"),
            ("0 3 * * *", "2026-11-30T03:00", "2026-12-01T03:00"),
            ("*/15 * * * *", "2026-12-31T23:50", "2027-01-01T00:00"),
            ("30 4 1,15 * *", "2026-11-30T00:00", "2026-12-01T04:30"),
            // 30 November 2026 is a Monday.
            ("0 0 * * 1-5", "2026-11-27T12:00", "2026-11-30T00:00"),
            ("0 0 * * 7", "2026-11-30T00:00", "2026-12-06T00:00"),
            ("0 0 * * SUN", "2026-11-30T00:00", "2026-12-06T00:00"),
            ("0 0 13 * fri", "2026-11-30T00:00", "2026-12-04T00:00"),
            ("5/20 1 * jan *", "2026-11-30T00:00", "2027-01-01T01:05"),
            ("0 0 29 2 *", "2096-03-01T00:00", "2104-02-29T00:00"),
            ("@weekly", "2026-11-30T00:00", "2026-12-06T00:00"),
        ] {
            assert_eq!(next(line, after), then, "{line} after {after}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_the_part() {
        for (line, cure) in [
            ("0 3 * *", "five fields"),
            ("0 0 3 * * *", "five fields"),
            ("60 * * * *", "\"60\" is no minute"),
            ("* 24 * * *", "\"24\" is no hour"),
            ("* * 0 * *", "\"0\" is no day of the month"),
            ("* * * foo *", "\"foo\" is no month"),
            ("* * * * 8", "\"8\" is no day of the week"),
            ("5-1 * * * *", "\"5-1\" is no minute"),
            ("*/0 * * * *", "\"*/0\" is no minute"),
            ("0 0 30 2 *", "never comes"),
            ("+1 * * * *", "\"+1\" is no minute"),
        ] {
            let error = line.parse::<Cron>().unwrap_err().to_string();
            assert!(error.contains(cure), "{line}: {error}");
        }
    }

    proptest! {
        #[test]
        fn the_next_time_is_the_first_that_fits(
            minute in 0_u32..60, hour in 0_u32..24, weekday in 0_u32..7, after in 0_i64..4_000_000_000
        ) {
            let after = DateTime::from_timestamp(after, 0).unwrap();
            let cron: Cron = format!("{minute} {hour} * * {weekday}").parse().unwrap();
            let next = cron.next(after).unwrap();
            let fits = (next.minute(), next.hour(), next.second(), next.weekday().num_days_from_sunday());
            prop_assert_eq!(fits, (minute, hour, 0, weekday));
            prop_assert!(next > after && next - after <= TimeDelta::days(7));
        }

        #[test]
        fn no_line_makes_it_panic(line in "[0-9*/,@a-z -]{0,16}") {
            if let Ok(cron) = line.parse::<Cron>() {
                cron.next(DateTime::UNIX_EPOCH);
            }
        }
    }
}
