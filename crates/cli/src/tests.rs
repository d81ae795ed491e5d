//! What people see, from fixed messages: each command's output, and every `--help`.

mod audit;
mod backups;
mod drills;
mod help;
mod jobs;
mod messages;
mod repository;
mod restores;
mod schedules;
mod status;
mod steps;
