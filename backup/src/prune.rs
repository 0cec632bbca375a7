//! Which backups are kept: the newest of each hour, day, week, month and year, as many of each as asked for.
//!
//! The rules of all backup tools that people know: going from the newest backup back, each rule keeps the newest
//! backup of every period that has one, until it has kept as many as it says. What any rule keeps is kept. Periods
//! are those of a time zone's calendar; weeks begin on Mondays.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::ids::BackupId;
use crate::manifest::Backup;

/// How many are kept, of each volume.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct KeepRules {
    /// The newest ones.
    pub last: u32,
    /// One of each of so many hours that have one.
    pub hourly: u32,
    /// One of each of so many days.
    pub daily: u32,
    /// One of each of so many weeks.
    pub weekly: u32,
    /// One of each of so many months.
    pub monthly: u32,
    /// One of each of so many years.
    pub yearly: u32,
}

/// What becomes of one backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// The backup.
    pub backup: BackupId,
    /// The rules that keep it (`last`, `hourly`, …); none if it goes.
    pub kept_by: Vec<&'static str>,
}

impl KeepRules {
    /// What becomes of each backup, per volume, newest first.
    pub fn apply(&self, backups: &[Backup], zone: &TimeZone) -> Result<Vec<Verdict>> {
        if *self == KeepRules::default() {
            let context = "rules that keep nothing would delete every backup: keep at least one of something";
            return Err(Error::new(ErrorKind::InvalidArgument, context));
        }
        let mut volumes: BTreeMap<&str, Vec<&Backup>> = BTreeMap::new();
        for backup in backups {
            volumes.entry(&backup.volume.id).or_default().push(backup);
        }
        let mut verdicts = Vec::with_capacity(backups.len());
        for backups in volumes.values_mut() {
            backups.sort_by_key(|backup| (std::cmp::Reverse(backup.created), backup.id));
            self.apply_to_one(backups, zone, &mut verdicts)?;
        }
        Ok(verdicts)
    }

    fn apply_to_one(
        &self,
        newest_first: &[&Backup],
        zone: &TimeZone,
        verdicts: &mut Vec<Verdict>,
    ) -> Result<()> {
        let mut rules = [
            Rule::new("last", self.last),
            Rule::new("hourly", self.hourly),
            Rule::new("daily", self.daily),
            Rule::new("weekly", self.weekly),
            Rule::new("monthly", self.monthly),
            Rule::new("yearly", self.yearly),
        ];
        for (place, backup) in newest_first.iter().enumerate() {
            let periods = periods(backup, place, zone)?;
            let kept_by = rules
                .iter_mut()
                .zip(periods)
                .filter_map(|(rule, period)| rule.keeps(period).then_some(rule.name))
                .collect();
            verdicts.push(Verdict { backup: backup.id, kept_by });
        }
        Ok(())
    }
}

struct Rule {
    name: &'static str,
    left: u32,
    last: Option<i64>,
}

impl Rule {
    fn new(name: &'static str, left: u32) -> Rule {
        Rule { name, left, last: None }
    }

    fn keeps(&mut self, period: i64) -> bool {
        if self.left == 0 || self.last == Some(period) {
            return false;
        }
        self.left -= 1;
        self.last = Some(period);
        true
    }
}

/// A number for each rule that is the same for two backups iff they fall in the same period.
fn periods(backup: &Backup, place: usize, zone: &TimeZone) -> Result<[i64; 6]> {
    let time = Timestamp::from_millisecond(backup.created).map_err(|e| {
        Error::new(ErrorKind::Corrupt, format!("backup {} has an impossible time", backup.id)).because(e)
    })?;
    let local = time.to_zoned(zone.clone());
    let week = local.date().iso_week_date();
    let (year, month, day) = (i64::from(local.year()), i64::from(local.month()), i64::from(local.day()));
    let days = (year * 12 + month) * 31 + day;
    // Hours are told apart by time itself: one that a clock change repeats is two.
    let hours = backup.created.div_euclid(3_600_000);
    let weeks = i64::from(week.year()) * 54 + i64::from(week.week());
    Ok([place as i64, hours, days, weeks, year * 12 + month, year])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{BackupKind, Labels, VolumeRef};

    fn backup(id: u8, volume: &str, time: &str) -> Backup {
        Backup {
            id: BackupId([id; 8]),
            volume: VolumeRef { name: volume.into(), id: volume.into() },
            kind: BackupKind::Full,
            parent: None,
            labels: Labels::default(),
            created: time.parse::<Timestamp>().unwrap().as_millisecond(),
            host: String::new(),
            size: 0,
            block_size: 512,
            attributes: BTreeMap::new(),
            data_bytes: 0,
            read_bytes: 0,
            added_bytes: 0,
            root: None,
        }
    }

    fn kept(rules: KeepRules, backups: &[Backup]) -> Vec<(u8, Vec<&'static str>)> {
        let verdicts = rules.apply(backups, &TimeZone::UTC).unwrap();
        verdicts.into_iter().filter(|v| !v.kept_by.is_empty()).map(|v| (v.backup.0[0], v.kept_by)).collect()
    }

    #[test]
    fn each_rule_keeps_the_newest_of_its_periods() {
        let backups = [
            backup(1, "a", "2024-12-29T10:00:00Z"), // a Sunday
            backup(2, "a", "2024-12-30T10:00:00Z"), // the Monday of 2025's first week
            backup(3, "a", "2024-12-31T10:00:00Z"),
            backup(4, "a", "2025-01-01T10:00:00Z"),
            backup(5, "a", "2025-01-01T10:30:00Z"),
            backup(6, "a", "2025-01-01T11:00:00Z"),
        ];
        let rules = |f: fn(&mut KeepRules)| {
            let mut rules = KeepRules::default();
            f(&mut rules);
            kept(rules, &backups).into_iter().map(|(id, _)| id).collect::<Vec<_>>()
        };
        assert_eq!(rules(|r| r.last = 2), [6, 5]);
        assert_eq!(rules(|r| r.hourly = 2), [6, 5]);
        assert_eq!(rules(|r| r.hourly = 3), [6, 5, 3]);
        assert_eq!(rules(|r| r.daily = 3), [6, 3, 2]);
        assert_eq!(rules(|r| r.weekly = 9), [6, 1]);
        assert_eq!(rules(|r| r.monthly = 9), [6, 3]);
        assert_eq!(rules(|r| r.yearly = 1), [6]);
        let both = kept(KeepRules { last: 1, yearly: 2, ..KeepRules::default() }, &backups);
        assert_eq!(both, [(6, vec!["last", "yearly"]), (3, vec!["yearly"])]);
    }

    #[test]
    fn volumes_are_told_apart_and_days_are_the_zones() {
        let backups = [backup(1, "a", "2025-01-01T10:00:00Z"), backup(2, "b", "2024-01-01T10:00:00Z")];
        assert_eq!(kept(KeepRules { last: 1, ..KeepRules::default() }, &backups).len(), 2);
        let backups = [backup(1, "a", "2025-01-01T22:30:00Z"), backup(2, "a", "2025-01-01T23:30:00Z")];
        let daily = KeepRules { daily: 2, ..KeepRules::default() };
        assert_eq!(kept(daily, &backups).len(), 1);
        let east = TimeZone::fixed(jiff::tz::offset(1));
        let verdicts = daily.apply(&backups, &east).unwrap();
        assert!(verdicts.iter().all(|verdict| !verdict.kept_by.is_empty()));
    }

    #[test]
    fn keeping_nothing_is_refused() {
        let error = KeepRules::default().apply(&[], &TimeZone::UTC).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}
