//! The pages for people: their links lead somewhere, and a page in Korean says what its English one says.

use std::path::{Path, PathBuf};

/// Every page of the repository.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directories = ["", "docs", "benches", "conf", "fuzz"].map(|below| root.join(below));
    let entries = directories.iter().flat_map(|below| std::fs::read_dir(below).unwrap());
    let mut pages: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages
}

fn read(page: &Path) -> String {
    std::fs::read_to_string(page).unwrap_or_else(|e| panic!("{}: {e}", page.display()))
}

/// The lines of the code blocks, and the other lines.
fn split(text: &str) -> (Vec<&str>, Vec<&str>) {
    let mut inside = false;
    let (mut code, mut prose) = (Vec::new(), Vec::new());
    for line in text.lines() {
        if line.starts_with("```") {
            inside = !inside;
            code.push(line);
        } else if inside {
            code.push(line);
        } else {
            prose.push(line);
        }
    }
    (code, prose)
}

/// What stands in backticks.
fn spans(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// Where links lead.
fn links(line: &str) -> Vec<&str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect()
}

/// The numbers in a line, in the order of their digits: languages put them in different places.
fn numbers(line: &str) -> Vec<String> {
    let text: String = line
        .chars()
        .map(|c| if c.is_ascii_digit() || ".,".contains(c) { c } else { ' ' })
        .collect();
    let words = text.split_whitespace().map(|word| word.trim_matches(['.', ',']).to_owned());
    let mut all: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    all.sort();
    all
}

/// The anchor that a heading has on the usual forges.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    words
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let pages = pages();
    assert!(pages.len() > 15, "{pages:?}");
    let mut wrong = Vec::new();
    for page in pages {
        let text = read(&page);
        for link in split(&text).1.into_iter().flat_map(links) {
            if link.contains("://") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let found = target.exists()
                && (heading.is_empty()
                    || split(&read(&target))
                        .1
                        .iter()
                        .any(|line| line.starts_with('#') && anchor(line) == heading));
            if !found {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Commands, tables, headings and links: what a change of one page must not forget in the other.
#[test]
fn korean_pages_keep_beside_the_english_ones() {
    let korean: Vec<_> =
        pages().into_iter().filter(|page| page.to_string_lossy().ends_with(".ko.md")).collect();
    assert_eq!(korean.len(), 2, "{korean:?}");
    for page in korean {
        let shown = page.display();
        let ours = read(&page);
        let theirs = read(Path::new(&page.to_string_lossy().replace(".ko.md", ".md")));
        // The glossary is for readers of Korean alone.
        let ours = ours.split("\n## 용어\n").next().unwrap();
        let ((code, prose), (their_code, their_prose)) = (split(ours), split(&theirs));

        // A comment behind a command may be translated.
        let command = |line: &str| match line.split_once(" # ") {
            Some((command, _)) if line.starts_with('$') => command.trim_end().to_owned(),
            _ => line.to_owned(),
        };
        let [a, b] = [code, their_code].map(|lines| lines.into_iter().map(command).collect());
        let (a, b): (Vec<_>, Vec<_>) = (a, b);
        assert_eq!(a, b, "{shown}: code blocks");

        let levels = |lines: &[&str]| -> Vec<usize> {
            let headings = lines.iter().filter(|line| line.starts_with('#'));
            headings.map(|line| line.chars().take_while(|c| *c == '#').count()).collect()
        };
        assert_eq!(levels(&prose), levels(&their_prose), "{shown}: headings");

        let rows = |lines: &[&str]| -> Vec<(Vec<String>, Vec<String>)> {
            let rows = lines.iter().filter(|line| line.starts_with('|'));
            rows.map(|row| (spans(row).into_iter().map(str::to_owned).collect(), numbers(row)))
                .collect()
        };
        assert_eq!(rows(&prose), rows(&their_prose), "{shown}: tables");

        let targets = |lines: &[&str]| -> Vec<String> {
            let all = lines.iter().flat_map(|line| links(line));
            let mut all: Vec<_> = all.map(|link| link.replace(".ko.md", ".md")).collect();
            all.sort();
            all
        };
        let own = Path::new(&page).file_name().unwrap().to_string_lossy().replace(".ko.md", ".md");
        let without_languages = |mut links: Vec<String>| {
            links.retain(|link| *link != own);
            links
        };
        let [a, b] = [&prose, &their_prose].map(|lines| without_languages(targets(lines)));
        assert_eq!(a, b, "{shown}: links");
    }
}
