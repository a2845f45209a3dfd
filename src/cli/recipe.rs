//! `dsr recipe`: the built-in settings, with where they come from.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::settings::{Config, recipes};

use super::records::Records;
use super::{DONE, Global, Output, Unused, say, say_lines};

/// Lists the built-in recipes and prints one with its source.
#[derive(Args)]
pub struct RecipeArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Names of all recipes, with where their settings come from: the paper, or ours.
    List,
    /// The file of a recipe: a start for a file of your own, for --config.
    Show {
        /// Name of the recipe.
        name: String,
    },
}

/// Prints what was asked for.
///
/// # Errors
/// [`crate::error::Error::Config`] for a name that no recipe has, or a flag without an effect here.
pub fn run(global: &Global, args: &RecipeArgs) -> anyhow::Result<u8> {
    global.refuse("recipe", &[Unused::Device, Unused::Threads, Unused::Config, Unused::Seed])?;
    match &args.command {
        Command::List => list(global.output),
        Command::Show { name } => show(global.output, name),
    }?;
    Ok(DONE)
}

fn list(output: Output) -> anyhow::Result<()> {
    let names = recipes::names();
    let sources = names.iter().map(|name| Ok(recipes::source(recipes::text(name)?))).collect::<crate::error::Result<Vec<_>>>()?;
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let pairs = || names.iter().zip(&sources);
    match output {
        Output::Text => pairs().for_each(|(name, source)| say_lines(&format!("{name:width$}  {}", source.first().unwrap_or(&"")))),
        Output::Json => {
            let all: Vec<Value> = pairs().map(|(name, source)| json!({ "name": name, "source": source.join(" ") })).collect();
            say(&json!({ "recipes": all }).to_string());
        }
        Output::Csv | Output::Md => {
            let mut records = Records::new(["name", "source"]);
            pairs().for_each(|(name, source)| records.push(vec![name.to_string(), source.join(" ")]));
            say(records.shown(output)?.trim_end());
        }
    }
    Ok(())
}

fn show(output: Output, name: &str) -> anyhow::Result<()> {
    let text = recipes::text(name)?;
    let source = recipes::source(text).join(" ");
    let settings: toml::Table = toml::from_str(text)?;
    match output {
        Output::Text => say(text.trim_end()),
        Output::Json => say(&json!({ "name": name, "source": source, "settings": settings }).to_string()),
        Output::Csv | Output::Md => {
            let mut row = json!(settings);
            (row["name"], row["source"]) = (name.into(), source.into());
            say(Records::of_objects(&[row]).shown(output)?.trim_end());
        }
    }
    Ok(())
}

/// Settings as a file for `--config`, or in another form.
///
/// # Errors
/// [`crate::error::Error::Config`] for a value that TOML cannot hold.
pub(super) fn print_settings(output: Output, config: &Config) -> anyhow::Result<()> {
    match output {
        Output::Text => say(config.to_complete_toml()?.trim_end()),
        Output::Json => say(&serde_json::to_string(&config.to_complete_table()?)?),
        Output::Csv | Output::Md => {
            say(Records::of_objects(&[serde_json::to_value(config.to_complete_table()?)?]).shown(output)?.trim_end());
        }
    }
    Ok(())
}
