//! The file that a line of the detail log names: `[host:]/path ([bundle 1/0, ]8KB, 1.20%)[ checksum …]`.

/// One named file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CopiedFile<'a> {
    /// The host in front; none for a local file.
    pub(crate) host: Option<&'a str>,
    /// The absolute path.
    pub(crate) path: &'a str,
    /// Its size, rounded as printed.
    pub(crate) bytes: u64,
    /// How much of all is done with it, 0 to 100.
    pub(crate) percent: f64,
}

impl<'a> CopiedFile<'a> {
    /// Reads what stands after `backup file `. A file's name may hold anything, so it is read from the
    /// end: the last parenthesis is pgBackRest's.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let text = text.trim_end();
        let text = match text.rsplit_once(" checksum ") {
            Some((rest, sum)) if !sum.is_empty() && sum.bytes().all(|b| b.is_ascii_hexdigit()) => rest,
            _ => text,
        };
        let (name, inner) = text.strip_suffix(')')?.rsplit_once(" (")?;
        let (sizes, percent) = inner.rsplit_once(", ")?;
        let percent = percent.strip_suffix('%').filter(|p| is_decimal(p))?.parse().ok()?;
        let size = match sizes.strip_prefix("bundle ") {
            Some(bundle) => {
                let (place, size) = bundle.split_once(", ")?;
                let (id, offset) = place.split_once('/')?;
                (is_number(id) && is_number(offset)).then_some(size)?
            }
            None => sizes,
        };
        let size = size.split_once("->").map_or(size, |(_, copied)| copied);
        let bytes = parse_size(size)?;
        if name.starts_with('/') {
            return Some(Self { host: None, path: name, bytes, percent });
        }
        let (host, _) = name.split_once(":/")?;
        (!host.is_empty()).then(|| Self { host: Some(host), path: &name[host.len() + 1..], bytes, percent })
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_decimal(text: &str) -> bool {
    match text.split_once('.') {
        Some((whole, fraction)) => is_number(whole) && is_number(fraction),
        None => is_number(text),
    }
}

/// Reads a size such as `29.1KB`, in units of 1024.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let split = text.find(|c: char| c.is_ascii_uppercase())?;
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit {
        "B" => 1,
        "KB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        "PB" => 1 << 50,
        _ => return None,
    };
    if !is_decimal(number) {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "a power of two")]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and `as` saturates"
    )]
    number.parse::<f64>().ok().map(|number| (number * factor as f64) as u64)
}

/// The part of `path` below `directory`, compared by components; `None` when it is not strictly below
/// or climbs out again.
pub(crate) fn is_below<'a>(directory: &str, path: &'a str) -> Option<&'a str> {
    let directory = directory.trim_end_matches('/');
    let relative = path.strip_prefix(directory)?.strip_prefix('/')?;
    let sound = !relative.is_empty() && relative.split('/').all(|part| !matches!(part, "" | "." | ".."));
    (sound && directory.starts_with('/')).then_some(relative)
}

/// Whether pgBackRest takes the file from the standby, by its path below the data directory: its rule
/// since 2.0 is these directories without `pg_control`.
pub(crate) fn is_standby_data(relative: &str) -> bool {
    relative != "global/pg_control"
        && ["base/", "global/", "pg_xact/", "pg_multixact/", "pg_tblspc/"]
            .iter()
            .any(|directory| relative.starts_with(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measured_form() {
        let parse = |text| CopiedFile::parse(text).map(|f| (f.host, f.path, f.bytes, f.percent));
        assert_eq!(
            parse("/d/base/5/1249 (520KB, 58.64%) checksum 07861caef3905a65c485aa90d96c7a2fd03a9a91"),
            Some((None, "/d/base/5/1249", 520 << 10, 58.64))
        );
        assert_eq!(
            parse("localhost:/d/odd (one, 1%) file.txt (bundle 1/12221, 13B, 0.10%) checksum ba7d9c57"),
            Some((Some("localhost"), "/d/odd (one, 1%) file.txt", 13, 0.10))
        );
        assert_eq!(parse("/d/global/6244 (0B, 100.00%)"), Some((None, "/d/global/6244", 0, 100.0)));
        assert_eq!(parse("/d/x (12MB->8KB, 3%)"), Some((None, "/d/x", 8 << 10, 3.0)));
        assert_eq!(
            parse("/d/strange (2KB, 3%) name (2B, 99.99%) checksum 6f"),
            Some((None, "/d/strange (2KB, 3%) name", 2, 99.99))
        );
        for bad in [
            "",
            "/d/x",
            "/d/x (8KB)",
            "/d/x (8KB, x%)",
            "d/x (8KB, 1%)",
            ":/d/x (8KB, 1%)",
            "/d/x (8QB, 1%)",
            "/d/x (8KB, 1%) and more",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_path_below_another_is_found_by_its_components() {
        assert_eq!(is_below("/a/pg_data", "/a/pg_data/base/1"), Some("base/1"));
        assert_eq!(is_below("/a/pg_data/", "/a/pg_data/base/1"), Some("base/1"));
        for outside in
            ["/a/pg_data2/base/1", "/a/pg_data", "/a/pg_data/", "/a/pg_data/../x", "/b", "a/pg_data/x"]
        {
            assert_eq!(is_below("/a/pg_data", outside), None, "{outside}");
        }
        assert_eq!(is_below("", "/x"), None);
    }

    #[test]
    fn what_the_standby_supplies() {
        assert!(is_standby_data("base/5/1249"));
        assert!(is_standby_data("global/1262"));
        assert!(is_standby_data("pg_tblspc/16384/PG_15/5/16385"));
        assert!(!is_standby_data("global/pg_control"));
        assert!(!is_standby_data("pg_logical/replorigin_checkpoint"));
        assert!(!is_standby_data("base.txt"));
    }
}
