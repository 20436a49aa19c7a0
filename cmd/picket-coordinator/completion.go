package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

const bashCompletion = `_picket_coordinator() {
  local words=("${COMP_WORDS[@]:0:$COMP_CWORD}")
  COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _picket_coordinator picket-coordinator
`

const zshCompletion = `#compdef picket-coordinator
_picket_coordinator() {
  local -a options
  options=("${(@f)$("${words[@]:0:$((CURRENT-1))}" --generate-bash-completion 2>/dev/null)}")
  compadd -- "${options[@]}"
}
compdef _picket_coordinator picket-coordinator
`

const fishCompletion = `complete -c picket-coordinator -f -a '(eval (commandline -opc) --generate-bash-completion 2>/dev/null)'
`

func completionCommand() *cli.Command {
	scripts := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
	return &cli.Command{
		Name:        "completion",
		Usage:       "print a script that completes commands in your shell",
		ArgsUsage:   "bash|zsh|fish",
		Description: "Example:\n\n   source <(picket-coordinator completion bash)",
		Action: func(c *cli.Context) error {
			args, err := arguments(c, 1, "a shell: bash, zsh or fish")
			if err != nil {
				return err
			}
			script, ok := scripts[args[0]]
			if !ok {
				return &usageError{fmt.Sprintf("no completion for %q: bash, zsh or fish", args[0])}
			}
			_, err = fmt.Fprint(c.App.Writer, script)
			return err
		},
	}
}
