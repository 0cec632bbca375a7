//! Jobs for people.

use cairn_api::Size;
use cairn_api::job::{Job, JobList, JobProgress, JobState};
use comfy_table::Cell;

use super::{Look, Tone, fields, left, pool, table};

fn tone(state: JobState) -> Tone {
    match state {
        JobState::Running => Tone::Active,
        JobState::Done => Tone::Good,
        JobState::Failed => Tone::Bad,
        JobState::Cancelled => Tone::Faint,
        JobState::Interrupted => Tone::Warning,
    }
}

/// What has become of a job, or how far it is, in a word or two.
fn state(job: &Job) -> String {
    match (job.state, job.progress.percent()) {
        (JobState::Running, Some(percent)) => format!("running {percent} %"),
        (state, _) => state.as_str().to_owned(),
    }
}

fn progress(progress: &JobProgress) -> String {
    let done = Size(progress.done);
    match (progress.total, progress.percent()) {
        (Some(total), Some(percent)) => format!("{done} of {} ({percent} %)", Size(total)),
        _ => done.to_string(),
    }
}

/// Jobs as a table.
pub(crate) fn list(list: &JobList, look: &Look) -> String {
    if list.jobs.is_empty() {
        return "There are no such jobs.\n".to_owned();
    }
    let rows = list.jobs.iter().map(|job| {
        vec![
            Cell::new(&job.id),
            Cell::new(job.what()),
            tone(job.state).cell(Cell::new(state(job))),
            Cell::new(look.ago(job.begun)),
        ]
    });
    table(&[left("ID"), left("JOB"), left("STATE"), left("BEGUN")], rows.collect(), look)
}

/// One job, and what it has found.
pub(crate) fn show(job: &Job, look: &Look) -> String {
    let mut lines = vec![
        ("id", job.id.clone()),
        ("job", job.what()),
        ("state", look.paint(tone(job.state), job.state.as_str())),
    ];
    if job.volume.is_some() || job.image.is_some() {
        lines.push(("pool", job.pool.clone()));
    }
    lines.push(("begun", look.when(job.begun)));
    lines.extend(job.ended.map(|ended| ("ended", look.when(ended))));
    lines.push(("progress", progress(&job.progress)));
    lines.extend(job.problem.as_ref().map(|why| ("problem", look.paint(Tone::Warning, why))));
    if let Some(error) = &job.error {
        lines.push(("error", look.paint(Tone::Bad, &format!("{} ({})", error.message, error.code))));
        lines.extend(error.hint.clone().map(|hint| ("hint", hint)));
    }
    let mut text = fields(&lines, look);
    let found = job.result.as_ref();
    if let Some(check) = found.and_then(|found| found.check.as_ref()) {
        text += &pool::check(check, look);
    }
    if let Some(scrub) = found.and_then(|found| found.scrub.as_ref()) {
        text += &pool::scrub(scrub, look);
    }
    text
}

/// After one has begun that is not waited for.
pub(crate) fn begun(job: &Job) -> String {
    format!("{0} has begun; see how far it is: cairn job show {0}\n", job.id)
}

/// After cancelling one.
pub(crate) fn cancelled(job: &Job) -> String {
    format!("cancelled the {}\n", job.what())
}

#[cfg(test)]
mod tests {
    use cairn_api::error::{ApiError, ErrorCode};
    use cairn_api::job::{JobKind, JobResult};
    use cairn_api::pool::CheckReport;

    use super::super::testing::{at, look, narrow};
    use super::*;

    fn restore() -> Job {
        Job {
            id: "restore-0123456789ab".into(),
            kind: JobKind::Restore,
            state: JobState::Running,
            pool: "main".into(),
            volume: Some("demo".into()),
            image: None,
            begun: at("2026-01-01T23:48:00Z"),
            ended: None,
            progress: JobProgress::bytes(1 << 30, Some(4 << 30)),
            problem: None,
            error: None,
            result: None,
        }
    }

    fn check() -> Job {
        let report = CheckReport { clean: true, versions: 2, nodes: 8, ..CheckReport::default() };
        Job {
            id: "check-0123456789ab".into(),
            kind: JobKind::Check,
            state: JobState::Done,
            volume: None,
            ended: Some(at("2026-01-01T23:49:00Z")),
            progress: JobProgress::bytes(8 << 12, Some(8 << 12)),
            result: Some(JobResult { check: Some(report), scrub: None }),
            ..restore()
        }
    }

    #[test]
    fn a_list_fits_a_terminal() {
        let import = Job {
            id: "import-0123456789ab".into(),
            kind: JobKind::Import,
            state: JobState::Interrupted,
            volume: None,
            image: Some("debian-13".into()),
            ..restore()
        };
        let list = |jobs: &[Job]| list(&JobList { jobs: jobs.to_vec() }, &narrow());
        assert_eq!(
            list(&[restore(), check(), import]),
            "\
ID                    JOB                        STATE         BEGUN
restore-0123456789ab  restore of volume demo     running 25 %  12 minutes ago
check-0123456789ab    check of pool main         done          12 minutes ago
import-0123456789ab   import of image debian-13  interrupted   12 minutes ago
"
        );
        assert_eq!(list(&[]), "There are no such jobs.\n");
    }

    #[test]
    fn a_job_shows_how_far_it_is_or_what_it_found() {
        let stuck = Job { problem: Some("nobody is there".into()), ..restore() };
        assert_eq!(
            show(&stuck, &look()),
            "\
id        restore-0123456789ab
job       restore of volume demo
state     running
pool      main
begun     2026-01-01 23:48:00 UTC (12 minutes ago)
progress  1.0 GiB of 4.0 GiB (25 %)
problem   nobody is there
"
        );
        assert_eq!(
            show(&check(), &look()),
            "\
id        check-0123456789ab
job       check of pool main
state     done
begun     2026-01-01 23:48:00 UTC (12 minutes ago)
ended     2026-01-01 23:49:00 UTC (11 minutes ago)
progress  32.0 KiB of 32.0 KiB (100 %)
checked 2 versions, 8 map nodes, no data blocks
the pool is sound
"
        );
        let why = ApiError::new(ErrorCode::Io, "the disk is gone").with_hint("look at it");
        let failed = Job {
            state: JobState::Failed,
            error: Some(why),
            result: None,
            progress: JobProgress::bytes(4096, None),
            ..check()
        };
        let text = show(&failed, &look());
        let end = "progress  4.0 KiB\nerror     the disk is gone (io)\nhint      look at it\n";
        assert!(text.ends_with(end), "{text}");
        assert!(begun(&check()).starts_with("check-0123456789ab has begun"));
        assert_eq!(cancelled(&restore()), "cancelled the restore of volume demo\n");
    }
}
