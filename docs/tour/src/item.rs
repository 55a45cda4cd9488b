//! Finds an item of a Rust file by its name, so that the source needs no marks.

use syn::spanned::Spanned;
use syn::{ImplItem, Item, Type};

/// The lines of an item, from its first comment to its end: numbers from 1, the last included.
///
/// # Errors
/// The text is no Rust, or it does not have exactly one such item.
pub fn find(text: &str, name: &str) -> Result<(usize, usize), String> {
    let file = syn::parse_file(text).map_err(|e| format!("no Rust: {e}"))?;
    let mut found = Vec::new();
    search(&file.items, name, &mut found);
    match found[..] {
        [lines] => Ok(lines),
        [] => Err(format!("there is no item `{name}`")),
        _ => Err(format!("there are {} items `{name}`", found.len())),
    }
}

fn search(items: &[Item], name: &str, found: &mut Vec<(usize, usize)>) {
    let (of, method) = name
        .split_once("::")
        .map_or((name, None), |(a, b)| (a, Some(b)));
    for item in items {
        match (item, method) {
            (Item::Impl(block), Some(method)) if type_name(&block.self_ty) == of => {
                for item in &block.items {
                    if let ImplItem::Fn(function) = item
                        && function.sig.ident == method
                    {
                        found.push(lines(function));
                    }
                }
            }
            (item, None) if ident(item).is_some_and(|known| known == of) => {
                found.push(lines(item));
            }
            _ => {}
        }
    }
}

fn type_name(of: &Type) -> String {
    match of {
        Type::Path(path) => path.path.segments.last().map(|s| s.ident.to_string()),
        _ => None,
    }
    .unwrap_or_default()
}

fn ident(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Fn(item) => &item.sig.ident,
        Item::Struct(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Const(item) => &item.ident,
        Item::Static(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

fn lines(item: &impl Spanned) -> (usize, usize) {
    let span = item.span();
    (span.start().line, span.end().line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "/// A.\nstruct A;\nimpl A {\n    /// B.\n    fn b() {}\n}\nfn b() {\n}\n";

    #[test]
    fn items_are_found_with_their_comments() {
        assert_eq!(find(TEXT, "A"), Ok((1, 2)));
        assert_eq!(find(TEXT, "A::b"), Ok((4, 5)));
        assert_eq!(find(TEXT, "b"), Ok((7, 8)));
        for name in ["B", "A::a", "b::A"] {
            assert_eq!(find(TEXT, name), Err(format!("there is no item `{name}`")));
        }
        let twice = [TEXT, TEXT].concat();
        assert_eq!(find(&twice, "b"), Err("there are 2 items `b`".into()));
        assert!(find("fn", "b").unwrap_err().starts_with("no Rust"));
    }
}
