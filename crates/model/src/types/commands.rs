//! Commands that messages name, where a cluster has several databases.

use crate::types::name::DatabaseName;

/// Commands that are about a database and need its name where there are several. One that names a job needs none.
const OF_A_DATABASE: [&str; 12] = [
    "backup",
    "backups",
    "check",
    "drill",
    "durability",
    "expire",
    "explain",
    "rebuild",
    "restore",
    "roles",
    "schedules",
    "verify",
];

/// The beginning of what is quoted with backticks in messages.
const BEGINNING: &str = "`cellar ";

/// A message in which every command that is about a database names it. Whoever knows that there is one database only need
/// not ask for that.
#[must_use]
pub fn naming_database(message: &str, database: &DatabaseName) -> String {
    let mut parts = message.split(BEGINNING);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(BEGINNING);
        let command = part.split('`').next().unwrap_or_default();
        let mut words = command.split(' ');
        let (verb, next) = (words.next().unwrap_or_default(), words.next());
        let is_of_a_job = verb == "restore" && matches!(next, Some("confirm" | "rollback"));
        if OF_A_DATABASE.contains(&verb) && !is_of_a_job && !command.contains("--database") {
            text.push_str(&format!("{verb} --database {database}{}", &part[verb.len()..]));
        } else {
            text.push_str(part);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_about_a_database_name_it() {
        let database: DatabaseName = "sales".parse().unwrap();
        for (message, expected) in [
            ("run `cellar rebuild zone1`", "run `cellar rebuild --database sales zone1`"),
            (
                "`cellar backup --type full --from` a standby, then `cellar status`",
                "`cellar backup --database sales --type full --from` a standby, then `cellar status`",
            ),
            ("`cellar rebuild`: é", "`cellar rebuild --database sales`: é"),
            ("`cellar restore --latest`", "`cellar restore --database sales --latest`"),
        ] {
            assert_eq!(naming_database(message, &database), expected);
        }
        for same in [
            "`cellar up`",
            "`cellar restore rollback 7`",
            "`cellar rebuild zone1 --database other`",
            "`cellar",
            "`cellar rebuilds`",
            "cellar rebuild zone1",
            "",
        ] {
            assert_eq!(naming_database(same, &database), same);
        }
    }
}
