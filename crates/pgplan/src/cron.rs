//! Times as crontab(5) writes them: five fields, or a word with `@`.
//!
//! The grammar is that of Debian's cron, which is who reads the entry in the end. Libraries for cron patterns know more than it
//! does (seconds, `L`, `#`, `?`) and other things by the same signs, so what they accept may be what cron refuses, which it does
//! without telling anybody: an entry that it cannot read never fires.

use std::{borrow::Cow, fmt, ops::Range, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// What the words mean.
const WORDS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];
const MINUTES_PER_DAY: u64 = 24 * 60;
/// A day and a weekday meet again after 28 years, unless a century without a leap year lies between.
const YEARS: Range<u64> = 2001..2030;

/// One field: its name for messages, its lowest and highest number, and the names of numbers from the lowest on.
struct Field {
    name: &'static str,
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", low: 0, high: 59, names: &[] },
    Field { name: "hour", low: 0, high: 23, names: &[] },
    Field { name: "day of month", low: 1, high: 31, names: &[] },
    Field { name: "month", low: 1, high: 12, names: &MONTHS },
    Field { name: "day of week", low: 0, high: 7, names: &DAYS },
];

/// When something is to happen: a time as crontab(5) writes it. Any text can be held; [`Cron::schedule`] says whether cron
/// would read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron(pub String);

/// The times that an expression means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Bits: minutes, hours, days of the month, months, days of the week with Sunday as 0.
    fields: [u64; 5],
    /// Whether one of the two fields for days begins with `*`: then both have to fit, else one is enough.
    days_meet: bool,
}

/// What cron would not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CronError {
    /// Where in the text, in bytes.
    pub place: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to write instead, when that is known.
    pub hint: Option<String>,
}

impl Cron {
    /// The times that it means.
    ///
    /// # Errors
    /// What cron would not read, with its place; or times that never come, like the 30th of February.
    pub fn schedule(&self) -> Result<Schedule, CronError> {
        self.0.parse()
    }
}

impl Schedule {
    /// The longest time between two firings, in seconds.
    pub fn longest_gap(&self) -> u64 {
        let [minutes, hours, ..] = self.fields;
        let times: Vec<u64> = (0..MINUTES_PER_DAY)
            .filter(|time| hours >> (time / 60) & 1 == 1 && minutes >> (time % 60) & 1 == 1)
            .collect();
        let (Some(first), Some(last)) = (times.first(), times.last()) else { return 0 };
        let within = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        let days: Vec<u64> = self.days().collect();
        let between = days.windows(2).map(|pair| (pair[1] - pair[0]) * MINUTES_PER_DAY + first - last);
        within.max(between.max().unwrap_or(0)) * 60
    }

    /// The days on which it fires, counted from the first of [`YEARS`], which was a Monday.
    fn days(&self) -> impl Iterator<Item = u64> + '_ {
        let dates = YEARS.flat_map(|year| {
            (1..=12).flat_map(move |month| (1..=month_length(year, month)).map(move |day| (month, day)))
        });
        let fits = |(number, (month, day)): &(u64, (u32, u32))| {
            let [_, _, days, months, weekdays] = self.fields;
            let weekday = (number + 1) % 7;
            let (by_date, by_weekday) = (days >> day & 1 == 1, weekdays >> weekday & 1 == 1);
            let day_fits = if self.days_meet { by_date && by_weekday } else { by_date || by_weekday };
            months >> month & 1 == 1 && day_fits
        };
        (0..).zip(dates).filter(fits).map(|(number, _)| number)
    }
}

fn month_length(year: u64, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl FromStr for Schedule {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        let whole = |message: String, hint: Option<String>| CronError { place: 0..text.len(), message, hint };
        if text.starts_with('@') {
            let Some((_, meaning)) = WORDS.iter().find(|(word, _)| *word == text) else {
                let words: Vec<&str> = WORDS.iter().map(|(word, _)| *word).collect();
                let message = match text {
                    "@reboot" => "`@reboot` is no interval".to_owned(),
                    other => format!("cron does not know `{other}`"),
                };
                return Err(whole(message, Some(format!("words: {}", words.join(", ")))));
            };
            return meaning.parse();
        }
        if let Some((at, char)) =
            text.char_indices().find(|(_, c)| !c.is_ascii_graphic() && !matches!(c, ' ' | '\t'))
        {
            let message = format!("cron does not know the character {char:?}");
            return Err(CronError { place: at..at + char.len_utf8(), message, hint: None });
        }
        let words = words(text);
        if words.len() != FIELDS.len() {
            let message = format!("a time has five fields, this one has {}", words.len());
            let names: Vec<&str> = FIELDS.iter().map(|field| field.name).collect();
            let hint = format!("fields: {}; as in `0 */6 * * *`, every six hours", names.join(", "));
            return Err(whole(message, Some(hint)));
        }
        let mut fields = [0; 5];
        for ((bits, field), place) in fields.iter_mut().zip(&FIELDS).zip(&words) {
            *bits = field.read(text, place.clone())?;
        }
        // Both 0 and 7 are Sunday.
        fields[4] |= fields[4] >> 7;
        let starts = |index: usize| text[words[index].clone()].starts_with('*');
        let schedule = Self { fields, days_meet: starts(2) || starts(4) };
        if schedule.days().next().is_none() {
            let place = words[2].start..words[3].end;
            let message = format!("no year has such a day: `{}`", &text[place.clone()]);
            return Err(CronError { place, message, hint: None });
        }
        Ok(schedule)
    }
}

/// Where the words of a text are.
fn words(text: &str) -> Vec<Range<usize>> {
    let start = |word: &str| word.as_ptr() as usize - text.as_ptr() as usize;
    text.split_ascii_whitespace().map(|word| start(word)..start(word) + word.len()).collect()
}

impl Field {
    /// The numbers of a field as bits: parts with commas between them.
    fn read(&self, text: &str, place: Range<usize>) -> Result<u64, CronError> {
        let mut bits = 0;
        let mut from = place.start;
        for part in text[place].split(',') {
            bits |= self.part(part, from)?;
            from += part.len() + 1;
        }
        Ok(bits)
    }

    /// `*`, a number, or a range, the last with a step or not.
    fn part(&self, part: &str, from: usize) -> Result<u64, CronError> {
        let error = |message: String, hint: Option<String>| CronError {
            place: from..from + part.len().max(1),
            message: format!("{}: {message}", self.name),
            hint,
        };
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (part, None),
        };
        let (low, high) = match range.split_once('-') {
            _ if range == "*" => (self.low, self.high),
            Some((low, high)) => (self.number(low, &error)?, self.number(high, &error)?),
            None => {
                let number = self.number(range, &error)?;
                if step.is_some() {
                    let hint = format!("write `{range}-{}/{}`", self.high, step.unwrap_or_default());
                    return Err(error(format!("a step needs a range, `{range}` is none"), Some(hint)));
                }
                (number, number)
            }
        };
        if low > high {
            return Err(error(format!("the range `{range}` goes backwards"), None));
        }
        let step = match step.map(|step| (step, digits(step))) {
            None => 1,
            Some((_, Some(step))) if (1..=self.high).contains(&step) => step,
            Some((step, _)) => {
                return Err(error(
                    format!("the step `{step}` is not a number from 1 to {}", self.high),
                    None,
                ));
            }
        };
        Ok((low..=high).step_by(step as usize).fold(0, |bits, number| bits | 1 << number))
    }

    fn number(
        &self,
        word: &str,
        error: &dyn Fn(String, Option<String>) -> CronError,
    ) -> Result<u32, CronError> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(word));
        let number = match named {
            Some(index) => Some(self.low + index as u32),
            None => digits(word).filter(|number| (self.low..=self.high).contains(number)),
        };
        number.ok_or_else(|| {
            let names = if self.names.is_empty() {
                String::new()
            } else {
                format!(" or one of {}", self.names.join(", "))
            };
            error(format!("`{word}` is not a number from {} to {}{names}", self.low, self.high), None)
        })
    }
}

fn digits(word: &str) -> Option<u32> {
    let fine = (1..=3).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit());
    word.parse().ok().filter(|_| fine)
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Cron {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer).map(|text| Self(text.into_owned()))
    }
}

impl Serialize for Cron {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl JsonSchema for Cron {
    fn schema_name() -> Cow<'static, str> {
        "Cron".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A time as crontab(5) writes it, as in `0 */6 * * *`.",
            "pattern": r"^[^\n]{0,200}$",
            "x-allowed": "a time as crontab(5) writes it, as in `0 */6 * * *`, 200 characters at most",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(text: &str) -> u64 {
        text.parse::<Schedule>().unwrap_or_else(|error| panic!("{text}: {error}")).longest_gap()
    }

    #[test]
    fn the_longest_gap_is_the_one_that_somebody_waits() {
        const DAY: u64 = 86_400;
        for (text, seconds) in [
            ("* * * * *", 60),
            ("*/7 * * * *", 7 * 60),
            ("0 */6 * * *", 6 * 3600),
            ("30 2 * * *", DAY),
            ("@daily", DAY),
            ("0 9-17 * * mon-fri", (2 * 24 + 16) * 3600),
            ("0 0 * * 0", 7 * DAY),
            ("0 0 * * 7", 7 * DAY),
            ("0 0 * * SUN", 7 * DAY),
            ("0 0 31 * *", 61 * DAY),
            ("0 0 29 2 *", (4 * 365 + 1) * DAY),
            // One of the two is enough, as crontab(5) says.
            ("0 0 1 * mon", 7 * DAY),
            ("0,30 0,12 * * *", 11 * 3600 + 1800),
        ] {
            assert_eq!(gap(text), seconds, "{text}");
        }
    }

    #[test]
    fn what_cron_would_not_read_is_named_with_its_place() {
        for (text, part, message) in [
            ("60 * * * *", "60", "minute: `60` is not a number from 0 to 59"),
            ("0 24 * * *", "24", "hour: `24` is not a number from 0 to 23"),
            ("0 0 0 * *", "0", "day of month: `0` is not a number from 1 to 31"),
            (
                "0 0 * 1,13 *",
                "13",
                "month: `13` is not a number from 1 to 12 or one of jan, feb, mar, apr, may, jun, jul, aug, sep, oct, nov, dec",
            ),
            (
                "0 0 * * 8",
                "8",
                "day of week: `8` is not a number from 0 to 7 or one of sun, mon, tue, wed, thu, fri, sat",
            ),
            ("0 5-2 * * *", "5-2", "hour: the range `5-2` goes backwards"),
            ("5/15 * * * *", "5/15", "minute: a step needs a range, `5` is none"),
            ("*/0 * * * *", "*/0", "minute: the step `0` is not a number from 1 to 59"),
            ("0 */6 * *", "0 */6 * *", "a time has five fields, this one has 4"),
            ("0 0 0 */6 * * *", "0 0 0 */6 * * *", "a time has five fields, this one has 7"),
            ("", "", "a time has five fields, this one has 0"),
            ("0 0 30 2 *", "30 2", "no year has such a day: `30 2`"),
            ("0 0 L * *", "L", "day of month: `L` is not a number from 1 to 31"),
            (
                "0 0 * * ?",
                "?",
                "day of week: `?` is not a number from 0 to 7 or one of sun, mon, tue, wed, thu, fri, sat",
            ),
            ("0 0 % * *", "%", "day of month: `%` is not a number from 1 to 31"),
            ("0 0 * * *\n* * * * * root id", "\n", "cron does not know the character '\\n'"),
            ("0, * * * *", " ", "minute: `` is not a number from 0 to 59"),
            ("@reboot", "@reboot", "`@reboot` is no interval"),
            ("@often", "@often", "cron does not know `@often`"),
        ] {
            let error = text.parse::<Schedule>().unwrap_err();
            assert_eq!((error.message.as_str(), &text[error.place]), (message, part), "{text}");
        }
    }
}
