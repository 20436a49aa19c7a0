package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
)

// Each script asks picket itself, with the words so far, what may come next.
var completionScripts = map[string]string{
	"bash": `_picket() {
  local words=("${COMP_WORDS[@]:0:$COMP_CWORD}")
  COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _picket picket
`,
	"zsh": `#compdef picket
_picket() {
  local -a options
  options=("${(@f)$("${words[@]:0:$((CURRENT-1))}" --generate-bash-completion 2>/dev/null)}")
  compadd -- "${options[@]}"
}
compdef _picket picket
`,
	"fish": `complete -c picket -f -a '(eval (commandline -opc) --generate-bash-completion 2>/dev/null)'
`,
}

func completionCommand() *cli.Command {
	return &cli.Command{
		Name:        "completion",
		Usage:       "print a script that completes commands in your shell",
		ArgsUsage:   "bash|zsh|fish",
		Description: "Example:\n\n   source <(picket completion bash)",
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 1, 1, "a shell (bash, zsh or fish)"); err != nil {
				return err
			}
			script, ok := completionScripts[c.Args().First()]
			if !ok {
				return cliflags.Usage(c, "no completion for %q: bash, zsh or fish", c.Args().First())
			}
			_, err := fmt.Fprint(c.App.Writer, script)
			return err
		},
	}
}
