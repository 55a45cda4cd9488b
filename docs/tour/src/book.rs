//! `tour book`: the chapters as a book of web pages, one for each language, in target/book. The
//! pages need no network, and have the files that they name with them.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use crate::catalog::{self, Catalog, LANGUAGES, TEMPLATE};
use crate::commands::Commands;
use crate::weave::difference;
use crate::{pages, root};

/// mdBook takes seconds.
const LIMIT: Duration = Duration::from_secs(120);
/// The programs that build the book.
const PROGRAMS: [&str; 3] = ["mdbook", "mdbook-gettext", "mdbook-xgettext"];
/// The folder of the books, below the workspace.
const BOOKS: &str = "target/book";
/// The language of the chapters.
const OWN: &str = "en";

/// Where `make deps-book` installs the programs.
fn installed() -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join("mini-vmm/book/bin"))
}

/// A search path that has all programs.
fn search_path() -> Result<String, String> {
    let own = installed();
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = own.into_iter().chain(env::split_paths(&path)).collect();
    for program in PROGRAMS {
        if !folders.iter().any(|folder| folder.join(program).is_file()) {
            return Err(format!(
                "{program} is not installed\nhint: make deps-book installs it (some minutes)"
            ));
        }
    }
    let joined = env::join_paths(folders).map_err(|e| format!("PATH: {e}"))?;
    joined
        .into_string()
        .map_err(|path| format!("PATH: {}", path.display()))
}

/// Builds the book in each language.
///
/// # Errors
/// A program is missing or fails, or a link of a page leads nowhere.
pub fn build(commands: &Commands) -> Result<(), String> {
    let path = search_path()?;
    let run = |variables: &str, to: &str| {
        let folder = root().join(BOOKS).join(to);
        // What an older build has left there.
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        }
        let to = folder.display();
        let command = format!("PATH='{path}' {variables} mdbook build docs/tour --dest-dir '{to}'");
        let built = commands.shell(&command, LIMIT)?;
        match built.status {
            0 => Ok(folder),
            _ => Err(format!("mdbook fails:\n{}", built.text)),
        }
    };
    compare(&run(
        "MDBOOK_OUTPUT='{\"xgettext\": {\"pot-file\": \"messages.pot\", \"granularity\": 0}}'",
        "messages",
    )?)?;
    for language in [OWN].into_iter().chain(LANGUAGES.map(|(name, _)| name)) {
        let title = title(language)?.replace('\'', "'\\''");
        let variables = format!("MDBOOK_BOOK__LANGUAGE={language} MDBOOK_BOOK__TITLE='{title}'");
        let folder = run(&variables, language)?;
        let (pages, links) = finish(&folder, language)?;
        println!("{BOOKS}/{language}/index.html: {pages} pages, {links} links");
    }
    Ok(())
}

/// The title of the book, which is that of its table of contents.
fn title(language: &str) -> Result<String, String> {
    let path = match language {
        OWN => TEMPLATE.to_owned(),
        language => catalog::path(language),
    };
    let text = fs::read_to_string(root().join(&path)).map_err(|e| format!("{path}: {e}"))?;
    let catalog = Catalog::parse(&text).map_err(|e| format!("{path}, {e}"))?;
    let first = catalog.messages.into_iter().next();
    let first = first.ok_or_else(|| format!("{path} has no message"))?;
    Ok(match first.is_translated() {
        true => first.translation,
        false => first.id,
    })
}

/// Compares our messages with those that mdbook-xgettext takes from the same book.
fn compare(folder: &Path) -> Result<(), String> {
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let catalog = Catalog::parse(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        let ids = catalog.messages.into_iter().map(|message| message.id);
        let ids: BTreeSet<_> = ids.collect();
        Ok::<_, String>(ids.into_iter().map(|id| id + "\n").collect::<String>())
    };
    let (own, theirs) = (
        read(root().join(TEMPLATE))?,
        read(folder.join("messages.pot"))?,
    );
    match difference(&own, &theirs) {
        None => Ok(()),
        Some(what) => Err(format!(
            "{TEMPLATE} does not have what mdbook-xgettext finds: {what}\n\
             hint: `make tour` makes it anew; a block of code needs the comment i18n:skip before it"
        )),
    }
}

/// Puts the files that pages name beside the pages, and follows all links. Returns how many pages
/// and links there are.
fn finish(folder: &Path, language: &str) -> Result<(usize, usize), String> {
    let mut texts = HashMap::new();
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.extension().is_some_and(|end| end == "html") {
            let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            texts.insert(path, text);
        }
    }
    let mut files = BTreeSet::new();
    for (path, text) in &mut texts {
        let (new, named) = pages::with_files(text);
        // The name of a language on the Web has no underscore (BCP 47).
        let on_the_web = language.replace('_', "-");
        let new = new.replace(
            &format!("<html lang=\"{language}\""),
            &format!("<html lang=\"{on_the_web}\""),
        );
        let new = pages::with_words(&new, language);
        files.extend(named);
        fs::write(path, &new).map_err(|e| format!("{}: {e}", path.display()))?;
        *text = new;
    }
    for file in &files {
        let copy = folder.join(pages::copy_of(file));
        let made = copy.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| fs::copy(root().join(file), &copy))
            .map_err(|e| format!("{file}, which a page names: {e}"))?;
    }
    let mut count = 0;
    let mut broken = Vec::new();
    for (path, text) in &texts {
        for link in pages::links(text) {
            count += 1;
            if !pages::resolves(link, text, |file| {
                let path = folder.join(file);
                match texts.get(&path) {
                    Some(text) => Some(text.clone()),
                    None => path.exists().then(String::new),
                }
            }) {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    match broken.is_empty() && !texts.is_empty() {
        true => Ok((texts.len(), count)),
        false => Err(format!("links lead nowhere:\n{}", broken.join("\n"))),
    }
}
