//! The report as one page that needs nothing from anywhere: the Markdown one, with the picture inside.

use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html};

use super::report::PICTURE;
use crate::markup::escape;

const STYLE: &str = "\
body { font: 15px/1.5 sans-serif; max-width: 980px; margin: 2em auto; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top }
pre { overflow: auto; background: #f5f6f7; padding: .8em; font-size: 13px; line-height: 1.35; max-height: 40em }
code { background: #f5f6f7 } svg { width: 100%; height: auto; margin: 1em 0 }
h2 { border-top: 1px solid #ddd; padding-top: 1em; margin-top: 1.5em }
blockquote { border-left: 4px solid #f29900; margin: 1em 0; padding: .1em 1em; background: #fff8ec }
";

/// The page. HTML inside the Markdown is shown as text, so that nothing that a host wrote acts on the reader; pictures other
/// than ours, and links to elsewhere, are left out.
pub fn page(title: &str, markdown: &str, picture: &str) -> String {
    let mut inside_picture = false;
    let events = Parser::new_ext(markdown, Options::ENABLE_TABLES).filter_map(|event| match event {
        Event::Start(Tag::Image { dest_url, .. }) => {
            inside_picture = true;
            (dest_url.as_ref() == PICTURE).then(|| Event::Html(CowStr::from(picture.to_owned())))
        }
        Event::End(TagEnd::Image) => {
            inside_picture = false;
            None
        }
        _ if inside_picture => None,
        Event::Html(text) | Event::InlineHtml(text) => Some(Event::Text(text)),
        Event::Start(Tag::Link { .. }) | Event::End(TagEnd::Link) => None,
        other => Some(other),
    });
    let mut body = String::new();
    html::push_html(&mut body, events);
    let title = escape(title);
    format!(
        "<!doctype html>\n<html><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title>\n<style>\n{STYLE}</style></head>\n<body>\n{body}</body></html>\n"
    )
}
