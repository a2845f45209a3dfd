//! The page of `dsr profile --html`: complete and self-contained, and, where there is a browser, without overflow at any width.
//!
//! The browser is `DSR_BROWSER`, or a Chromium in PATH; without one its test says so and checks nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use tempfile::{TempDir, tempdir};

/// A page with all sections: of a checkpoint, with a prediction.
fn page() -> (TempDir, String) {
    let folder = tempdir().unwrap();
    for line in [
        "train -d digits-8x8 --widths 4,8 --blocks 1,1 -T 6 --epochs 1 --device cpu --quiet --out run",
        "profile --checkpoint run --steps 1 --warmup 0 --device cpu --html page.html --predict rtx4090",
    ] {
        let output = Command::new(cargo_bin("dsr")).current_dir(folder.path()).args(line.split_whitespace()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "dsr {line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = fs::read_to_string(folder.path().join("page.html")).unwrap();
    (folder, text)
}

/// Every tag is closed in order; gives the names of all tags. Attributes have no `>` in them: text is escaped.
fn tags(page: &str) -> Vec<String> {
    const VOID: [&str; 2] = ["meta", "!DOCTYPE"];
    let (mut open, mut names): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for part in page.split('<').skip(1) {
        let tag = part.split('>').next().unwrap();
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap().to_string();
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(name.as_str()), "</{name}> closes something else");
        } else if !tag.ends_with('/') && !VOID.contains(&name.as_str()) {
            open.push(name.clone());
        }
        names.push(name);
    }
    assert!(open.is_empty(), "left open: {open:?}");
    names
}

#[test]
fn the_page_is_whole_and_needs_nothing_else() {
    let (_folder, page) = page();
    let names = tags(&page);
    for name in ["script", "link", "img", "iframe", "image", "use"] {
        assert!(!names.iter().any(|tag| tag == name), "<{name}> loads something");
    }
    for word in ["http", "//", "url(", "@import", "src=", "NaN", "inf%"] {
        assert!(!page.contains(word), "{word:?} is in the page");
    }
    for heading in [
        "Time by layer",
        "Time by operation",
        "Memory by layer",
        "Firing rates",
        "Membrane potentials",
        "Accuracy against T",
        "Prediction for GeForce RTX 4090",
    ] {
        assert_eq!(page.matches(&format!("<h2>{heading}</h2>")).count(), 1, "{heading}");
    }
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("width=device-width") && page.contains("lang=\"en\""));
    // Every chart has words for those who do not see it, and every section its numbers.
    let charts = page.matches("role=\"img\"").count();
    assert_eq!((charts, page.matches("<desc id=").count()), (page.matches("aria-labelledby=").count(), charts));
    assert_eq!(page.matches("<h2>").count(), page.matches("<table>").count());
    let mut ids: Vec<&str> = page.split(" id=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "an id is there twice: {ids:?}");
}

/// Put behind the page: opens all tables, measures, and tells the page around it.
const MEASURE: &str = r#"<script>
document.querySelectorAll('details').forEach(d => d.open = true);
const wide = document.documentElement.scrollWidth, room = window.innerWidth, faults = [];
if (wide > room) faults.push('the page is ' + wide + ' wide');
for (const svg of document.querySelectorAll('svg[role=img]')) {
  const frame = svg.getBoundingClientRect(), track = svg.querySelector('.track');
  for (const text of svg.querySelectorAll('text')) {
    const box = text.getBoundingClientRect();
    if (box.right > room || box.left < 0) faults.push('outside: ' + text.textContent);
    if (track && text.getAttribute('x') === '0' && box.right > track.getBoundingClientRect().left) faults.push('on its bar: ' + text.textContent);
  }
  if (frame.width < 100) faults.push('a narrow chart');
}
const requests = performance.getEntriesByType('resource').length;
if (requests) faults.push(requests + ' requests');
parent.postMessage(room + ' wide: ' + (faults.join('; ') || 'good'), '*');
</script>"#;

#[test]
fn a_browser_shows_it_without_overflow() {
    let Some(browser) = browser() else {
        eprintln!("skipped: no browser; set DSR_BROWSER to a Chromium, or put one into PATH");
        return;
    };
    let (folder, page) = page();
    let measured = page.replace("</main>\n</body>", &format!("</main>\n{MEASURE}</body>"));
    assert_ne!(measured, page);
    let path = folder.path().join("measured.html");
    fs::write(&path, measured).unwrap();
    for width in [360, 390, 768, 1280] {
        let (dom, log) = dump(&browser, folder.path(), &path, width);
        assert_eq!(told(&dom), format!("{width} wide: good"), "{log}");
        assert_eq!(messages(&log), Vec::<&str>::new(), "{width}");
    }
    // The measurement finds what it looks for.
    let broken = page.replace("</main>\n</body>", &format!("<p style=\"width: 999px\">wide</p></main>\n{MEASURE}</body>"));
    fs::write(&path, broken).unwrap();
    assert!(told(&dump(&browser, folder.path(), &path, 390).0).contains("the page is"));
    let noisy = page.replace("</main>\n</body>", &format!("</main><script>console.log('a word')</script>\n{MEASURE}</body>"));
    fs::write(&path, noisy).unwrap();
    let log = dump(&browser, folder.path(), &path, 390).1;
    assert!(messages(&log).len() == 1 && messages(&log)[0].contains("a word"), "{log}");
}

/// What the page itself says on the console. What the browser has to say of its surroundings (its wrapper, D-Bus, a missing graphics
/// card) is no fault of the page.
fn messages(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains(":CONSOLE") && line.contains("measured.html")).collect()
}

fn told(dom: &str) -> &str {
    dom.split("data-measured=\"").nth(1).map_or("nothing was measured", |rest| rest.split('"').next().unwrap())
}

/// The page after its scripts have run, and what the browser said. The page is shown in a frame: windows have a smallest width.
fn dump(browser: &Path, home: &Path, page: &Path, width: usize) -> (String, String) {
    let around = home.join("around.html");
    let name = page.file_name().unwrap().to_str().unwrap();
    let text = format!(
        "<script>addEventListener('message', e => document.documentElement.setAttribute('data-measured', e.data))</script>\
         <iframe src=\"{name}\" style=\"width: {width}px; height: 900px; border: 0\"></iframe>"
    );
    fs::write(&around, text).unwrap();
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--dump-dom"]);
    command
        .args(["--window-size=1400,900", "--virtual-time-budget=10000"])
        .arg(format!("--user-data-dir={}", home.join("browser").display()));
    let output = command.arg(format!("file://{}", around.display())).output().unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn browser() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("DSR_BROWSER") {
        return Some(path.into());
    }
    let folders = std::env::var_os("PATH")?;
    let names = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome"];
    std::env::split_paths(&folders).flat_map(|folder| names.map(|name| folder.join(name))).find(|path| path.is_file())
}
