//! Shell completions and manual pages of a program, made of its command line's definition, so that they say what it does.
//!
//! The programs write them themselves ([`About`] is among their subcommands): whoever has a program has what goes with it.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;

const EXAMPLES: &str = "\
Examples:
  cairn completions bash > ~/.local/share/bash-completion/completions/cairn
  cairn completions fish > ~/.config/fish/completions/cairn.fish
  cairn completions zsh > ~/.zfunc/_cairn               with ~/.zfunc in fpath";

/// What a program tells of its own command line.
#[derive(Subcommand, Debug)]
pub enum About {
    /// Print what completes this program's command line in a shell
    #[command(after_help = EXAMPLES)]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write this program's manual pages, one a subcommand, to a folder
    #[command(hide = true)]
    ManPages {
        /// Where to; it must be there
        folder: PathBuf,
    },
}

impl About {
    /// Tells it of the program with this definition, whose pages belong into this section of the manual.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn run(&self, mut command: Command, section: &str) -> io::Result<()> {
        match self {
            About::Completions { shell } => {
                let (name, mut text) = (command.get_name().to_owned(), Vec::new());
                clap_complete::generate(*shell, &mut command, name, &mut text);
                io::Write::write_all(&mut io::stdout(), &text)
            }
            About::ManPages { folder } => {
                let mut command = command.disable_help_subcommand(true);
                // Names the subcommands after those that they belong to.
                command.build();
                page(&command, section, folder)
            }
        }
    }
}

fn page(command: &Command, section: &str, folder: &Path) -> io::Result<()> {
    for deeper in command.get_subcommands().filter(|deeper| !deeper.is_hide_set()) {
        page(deeper, section, folder)?;
    }
    Man::new(command.clone()).section(section).manual("cairn").generate_to(folder).map(drop)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn program() -> Command {
        let shown = Command::new("shown").about("What is shown").subcommand(Command::new("deeper"));
        About::augment_subcommands(Command::new("program").subcommand(shown))
    }

    #[test]
    fn every_subcommand_has_a_page_but_hidden_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        About::ManPages { folder: folder.path().to_owned() }.run(program(), "8").expect("writes");
        let files = std::fs::read_dir(folder.path()).expect("a folder");
        let pages: BTreeSet<String> =
            files.map(|file| file.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        let expected = ["program.8", "program-shown.8", "program-shown-deeper.8", "program-completions.8"];
        assert_eq!(pages, expected.map(str::to_owned).into());
        let text = std::fs::read_to_string(folder.path().join("program-shown.8")).expect("a page");
        assert!(text.contains(".TH program-shown 8") && text.contains("What is shown"), "{text}");
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder").path().join("nothing");
        About::ManPages { folder }.run(program(), "1").expect_err("there is none");
    }
}
