package cliflags

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// Each script asks the program itself, with the words so far, what may come next. Flags are offered once a hyphen is typed.
var completionScripts = map[string]string{
	"bash": `_FUNCTION() {
  local current=${COMP_WORDS[COMP_CWORD]} words=("${COMP_WORDS[@]:0:$COMP_CWORD}") found
  found=$("${words[@]}" --generate-bash-completion 2>/dev/null)
  [[ $current == -* ]] || found=$(grep -v '^-' <<<"$found")
  COMPREPLY=($(compgen -W "$found" -- "$current"))
}
complete -F _FUNCTION PROGRAM
`,
	"zsh": `#compdef PROGRAM
_FUNCTION() {
  local -a found
  found=("${(@f)$("${words[@]:0:$((CURRENT-1))}" --generate-bash-completion 2>/dev/null)}")
  [[ ${words[CURRENT]} == -* ]] || found=(${found:#-*})
  compadd -- $found
}
compdef _FUNCTION PROGRAM
`,
	"fish": `function __FUNCTION
    set -l words (commandline -opc)
    set -l kind '^[^-]'
    string match -q -- '-*' (commandline -ct); and set kind '^-'
    command $words --generate-bash-completion 2>/dev/null | string match -r -- "$kind.*"
end
complete -c PROGRAM -f -a '(__FUNCTION)'
`,
}

// Completion is the command that prints a completion script for program.
func Completion(program string) *cli.Command {
	fill := strings.NewReplacer("PROGRAM", program, "FUNCTION", strings.ReplaceAll(program, "-", "_"))
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a script that completes commands in your shell",
		ArgsUsage: "bash|zsh|fish",
		Description: fill.Replace("Examples, for this shell and for every one to come:\n\n   source <(PROGRAM completion bash)\n" +
			"   PROGRAM completion bash >/etc/bash_completion.d/PROGRAM\n   PROGRAM completion fish >~/.config/fish/completions/PROGRAM.fish"),
		BashComplete: Candidates(func(*cli.Context) []string { return []string{"bash", "zsh", "fish"} }),
		Action: func(c *cli.Context) error {
			if err := NArgs(c, 1, 1, "a shell (bash, zsh or fish)"); err != nil {
				return err
			}
			script, ok := completionScripts[c.Args().First()]
			if !ok {
				return Usage(c, "no completion for %q: bash, zsh or fish", c.Args().First())
			}
			_, err := fill.WriteString(c.App.Writer, script)
			return err
		},
	}
}

// Candidates completes a command's arguments with what list returns, and its flags.
func Candidates(list func(*cli.Context) []string) cli.BashCompleteFunc {
	return func(c *cli.Context) {
		for _, word := range list(c) {
			fmt.Fprintln(c.App.Writer, word)
		}
		completeFlags(c)
	}
}

func completeFlags(c *cli.Context) {
	for _, f := range c.Command.VisibleFlags() {
		for _, name := range f.Names() {
			if len(name) > 1 {
				fmt.Fprintln(c.App.Writer, "--"+name)
			}
		}
	}
}

// setCompletion has app and its groups of commands complete those, and other commands their flags where they say nothing else. (The
// library would look at the process's own arguments to do so.)
func setCompletion(app *cli.App) {
	app.BashComplete = func(c *cli.Context) { completeCommands(c, app.Commands) }
	setCompletions(app.Commands)
}

func setCompletions(commands []*cli.Command) {
	for _, of := range commands {
		switch setCompletions(of.Subcommands); {
		case len(of.Subcommands) > 0:
			inner := of.Subcommands
			of.BashComplete = func(c *cli.Context) { completeCommands(c, inner) }
		case of.BashComplete == nil:
			of.BashComplete = completeFlags
		}
	}
}

func completeCommands(c *cli.Context, commands []*cli.Command) {
	for _, one := range commands {
		if !one.Hidden {
			fmt.Fprintln(c.App.Writer, one.Name)
		}
	}
}
