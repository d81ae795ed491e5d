//! Writers that never stop: each tries row after row at its own place, and keeps those that were acknowledged.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::load::acknowledged::{Row, Server};
use crate::load::psql::{Answer, Psql};
use crate::machine::wait::poll;

/// A write that is not answered within this is given up, with its connection: a client that waited for a dead server longer would
/// measure its own patience.
const WRITE_TIMEOUT: Duration = Duration::from_millis(500);

/// A new connection has more to do before its first answer: on a machine that is busy with other things seconds. Each time that
/// this is not enough the next connection has twice as long, up to [`LONGEST_TIMEOUT`].
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest that a new connection may take.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(8);

/// Rows of different writers do not meet, those of one after another neither.
const IDS_OF_A_WRITER: u64 = 1_000_000_000;

/// How many writers this process has had.
static WRITERS: AtomicU64 = AtomicU64::new(0);

/// The table that they write.
pub const TABLE: &str = "CREATE TABLE ledger (id bigint PRIMARY KEY)";

/// One writer: `psql` with the arguments that lead it, and the time from one write to the next.
pub struct Place {
    /// Makes the command.
    pub psql: Box<dyn Fn() -> Command + Send>,
    /// From the begin of one write to that of the next.
    pub pace: Duration,
}

/// The writers. They end with this.
pub struct Writers {
    rows: Arc<Mutex<Vec<Row>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Begins to write into the table, which exists. Writers are numbered as they are given.
    #[must_use]
    pub fn start(places: Vec<Place>) -> Self {
        let (rows, stop) = (Arc::<Mutex<Vec<Row>>>::default(), Arc::new(AtomicBool::new(false)));
        let threads = places.into_iter().enumerate().map(|(number, place)| {
            let (rows, stop) = (Arc::clone(&rows), Arc::clone(&stop));
            std::thread::spawn(move || write(number, &place, &rows, &stop))
        });
        let threads = threads.collect();
        Self { rows, stop, threads }
    }

    fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first row of a writer that was asked for after `since` and acknowledged in such a way, if that comes within this
    /// time.
    #[must_use]
    pub fn first(
        &self,
        writer: usize,
        since: Instant,
        by: impl Fn(&Row) -> bool,
        timeout: Duration,
    ) -> Option<Row> {
        poll(timeout, || {
            let rows = self.rows();
            let later = rows.iter().rev().take_while(|row| row.acknowledged > since);
            later.filter(|row| row.writer == writer && row.begun > since && by(row)).last().copied()
        })
    }

    /// The longest time between these moments in which a writer had no row acknowledged.
    #[must_use]
    pub fn longest_wait(&self, writer: usize, since: Instant, until: Instant) -> Duration {
        let rows = self.rows();
        let times = rows.iter().filter(|row| row.writer == writer).map(|row| row.acknowledged);
        let mut times: Vec<Instant> =
            times.filter(|at| *at > since && *at < until).chain([until.max(since)]).collect();
        times.sort();
        let mut last = since;
        let waits = times.into_iter().map(|at| {
            let wait = at - last;
            last = at;
            wait
        });
        waits.max().unwrap_or_default()
    }

    /// All rows that were acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> Vec<Row> {
        self.rows().clone()
    }

    /// Forgets those that were acknowledged up to then.
    pub fn forget(&self, until: Instant) {
        self.rows().retain(|row| row.acknowledged > until);
    }

    /// Ends them. What was acknowledged, all told.
    #[must_use]
    pub fn end(mut self) -> Vec<Row> {
        self.join();
        self.acknowledged()
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.join();
    }
}

fn write(number: usize, place: &Place, rows: &Mutex<Vec<Row>>, stop: &AtomicBool) {
    let mut id = (WRITERS.fetch_add(1, Ordering::Relaxed) + 1) * IDS_OF_A_WRITER;
    let mut session: Option<Psql> = None;
    let mut first_timeout = FIRST_TIMEOUT;
    while !stop.load(Ordering::Relaxed) {
        id += 1;
        let begun = Instant::now();
        let timeout = if session.is_some() { WRITE_TIMEOUT } else { first_timeout };
        let used = session.get_or_insert_with(|| Psql::start((place.psql)()));
        let statement = format!(
            "INSERT INTO ledger VALUES ({id}) RETURNING current_setting('port'), \
             substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8), \
             (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint"
        );
        match used.ask(&statement, timeout) {
            Answer::Done(line) => {
                if let Some(server) = server(&line) {
                    let row = Row { id, writer: number, server, begun, acknowledged: Instant::now() };
                    rows.lock().unwrap_or_else(PoisonError::into_inner).push(row);
                }
            }
            Answer::Refused => {}
            Answer::Lost => session = None,
        }
        let was_short = session.is_none() && timeout >= FIRST_TIMEOUT && begun.elapsed() >= timeout;
        first_timeout = if was_short { (timeout * 2).min(LONGEST_TIMEOUT) } else { FIRST_TIMEOUT };
        std::thread::sleep((begun + place.pace).saturating_duration_since(Instant::now()));
    }
}

/// `5432|0000000A|1764480000000000`
fn server(line: &str) -> Option<Server> {
    let mut fields = line.split('|');
    Some(Server {
        port: fields.next()?.parse().ok()?,
        timeline: u32::from_str_radix(fields.next()?, 16).ok()?,
        started: fields.next()?.parse().ok()?,
    })
}
