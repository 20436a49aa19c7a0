// Package cliflags makes a urfave/cli app read its flags wherever they stand on the line.
//
// By itself urfave/cli takes every word after the first argument as an argument: in `why db:5432 --json` the flag would be
// ignored silently. Here it counts, and a word that looks like a flag but is none is refused with a hint.
package cliflags

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// completionFlag is the word urfave/cli appends to ask for completions.
const completionFlag = "--generate-bash-completion"

// level is one command on the line: the app itself, then each command and subcommand.
type level struct {
	name     string
	flags    []cli.Flag
	commands []*cli.Command
	words    []string // flags found for this level, in "--name=value" form
}

// Arrange returns args (args[0] is the program) with every flag moved before the arguments, at the command it belongs to. A flag of
// an outer command is found after an inner one, too, and one of an inner command before its name. Words after "--" are arguments. An unknown flag, an unknown command or a flag without
// its value is a *UsageError. Arrange reads app but does not change it.
func Arrange(app *cli.App, args []string) ([]string, error) {
	if len(args) == 0 || asksCompletion(app, args) {
		return args, nil
	}
	l := &line{program: app.Name, noHelp: app.HideHelpCommand, levels: []*level{{flags: app.Flags, commands: app.Commands}}}
	rest := args[1:]
	for len(rest) > 0 {
		if rest[0] == "--" {
			l.arguments = append(l.arguments, rest[1:]...)
			break
		}
		n, err := l.take(rest)
		if err != nil {
			return nil, err
		}
		rest = rest[n:]
	}
	if err := l.takeEarly(); err != nil {
		return nil, err
	}
	return l.join(args[0]), nil
}

func asksCompletion(app *cli.App, args []string) bool {
	return app.EnableBashCompletion && args[len(args)-1] == completionFlag
}

// line is a command line while it is being read.
type line struct {
	program   string
	levels    []*level
	early     []earlyFlag
	arguments []string
	noHelp    bool // the app has no command "help"
	help      bool // "help COMMAND": the rest is urfave's
	helpFlag  bool // --help: arguments would be taken for the topic
}

// earlyFlag is a flag that stood before the command it belongs to.
type earlyFlag struct {
	word, name, value string
	hasValue          bool
}

// take reads one word, or a flag with its value, and returns how many words that was.
func (l *line) take(words []string) (int, error) {
	word := words[0]
	if strings.HasPrefix(word, "-") && word != "-" && !l.help {
		return l.takeFlag(words)
	}
	inner := l.levels[len(l.levels)-1]
	if len(l.arguments) > 0 || len(inner.commands) == 0 || l.help {
		l.arguments = append(l.arguments, word)
		return 1, nil
	}
	if (word == "help" || word == "h") && !l.noHelp {
		l.help = true
		l.arguments = append(l.arguments, word)
		return 1, nil
	}
	for _, c := range inner.commands {
		if c.HasName(word) {
			l.levels = append(l.levels, &level{name: word, flags: c.Flags, commands: c.Subcommands})
			return 1, nil
		}
	}
	return 0, l.unknownCommand(word)
}

// takeFlag looks for the flag from the innermost command outward.
func (l *line) takeFlag(words []string) (int, error) {
	name, value, hasValue := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(words[0], "-"), "-"), "=")
	for i := len(l.levels) - 1; i >= 0; i-- {
		takesValue, ok := lookup(l.levels[i].flags, name)
		if !ok {
			continue
		}
		value, hasValue, n, err := l.valueOf(name, value, hasValue, takesValue, words)
		if err == nil {
			l.levels[i].add(name, value, hasValue)
		}
		return n, err
	}
	if takesValue, ok := lookupInside(l.levels[len(l.levels)-1].commands, name); ok {
		value, hasValue, n, err := l.valueOf(name, value, hasValue, takesValue, words)
		l.early = append(l.early, earlyFlag{words[0], name, value, hasValue})
		return n, err
	}
	if n, ok := l.takeShort(words[0]); ok {
		return n, nil
	}
	if isBuiltin(l, name) {
		l.helpFlag = l.helpFlag || strings.HasPrefix(name, "h")
		l.levels[len(l.levels)-1].add(name, value, hasValue)
		return 1, nil
	}
	return 0, l.unknownFlag(words[0], name)
}

// valueOf takes a flag's value from the next word where it has none yet, and returns how many words were taken.
func (l *line) valueOf(name, value string, hasValue, takesValue bool, words []string) (string, bool, int, error) {
	if !takesValue || hasValue {
		return value, hasValue, 1, nil
	}
	if len(words) < 2 || (strings.HasPrefix(words[1], "-") && words[1] != "-" && l.known(words[1])) {
		return "", false, 0, l.usage("--"+name+" needs a value", "")
	}
	return words[1], true, 2, nil
}

// takeEarly hands the flags that stood before their command to it, now that it is known which that is.
func (l *line) takeEarly() error {
	for _, f := range l.early {
		i := len(l.levels) - 1
		for ; i >= 0; i-- {
			if _, ok := lookup(l.levels[i].flags, f.name); ok {
				break
			}
		}
		if i < 0 {
			return l.unknownFlag(f.word, f.name)
		}
		l.levels[i].add(f.name, f.value, f.hasValue)
	}
	return nil
}

// lookupInside is lookup in the commands given and all inside them.
func lookupInside(commands []*cli.Command, name string) (takesValue, ok bool) {
	for _, c := range commands {
		if takesValue, ok := lookup(c.Flags, name); ok {
			return takesValue, true
		}
		if takesValue, ok := lookupInside(c.Subcommands, name); ok {
			return takesValue, true
		}
	}
	return false, false
}

// takeShort reads a number that stands against its one-letter flag: -c1.
func (l *line) takeShort(word string) (int, bool) {
	if len(word) < 3 || word[0] != '-' || word[2] < '0' || word[2] > '9' {
		return 0, false
	}
	for i := len(l.levels) - 1; i >= 0; i-- {
		if takesValue, ok := lookup(l.levels[i].flags, word[1:2]); ok && takesValue {
			l.levels[i].add(word[1:2], word[2:], true)
			return 1, true
		}
	}
	return 0, false
}

// known reports whether word is a flag on this line, so that it is not swallowed as another flag's value.
func (l *line) known(word string) bool {
	name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(word, "-"), "-"), "=")
	for _, lv := range l.levels {
		if _, ok := lookup(lv.flags, name); ok {
			return true
		}
	}
	return isBuiltin(l, name)
}

func (lv *level) add(name, value string, hasValue bool) {
	word := "--" + name
	if hasValue {
		word += "=" + value
	}
	lv.words = append(lv.words, word)
}

// isBuiltin knows the flags that urfave/cli adds by itself: help everywhere, version at the app.
func isBuiltin(l *line, name string) bool {
	return name == "help" || name == "h" || (len(l.levels) == 1 && (name == "version" || name == "v"))
}

func lookup(flags []cli.Flag, name string) (takesValue, ok bool) {
	for _, f := range flags {
		for _, n := range f.Names() {
			if n != name {
				continue
			}
			d, isDoc := f.(cli.DocGenerationFlag)
			return isDoc && d.TakesValue(), true
		}
	}
	return false, false
}

func (l *line) join(program string) []string {
	out := []string{program}
	for i, lv := range l.levels {
		if i > 0 {
			out = append(out, lv.name)
		}
		out = append(out, lv.words...)
	}
	if l.helpFlag {
		return out
	}
	for _, a := range l.arguments {
		if strings.HasPrefix(a, "-") && a != "-" {
			out = append(out, "--")
			break
		}
	}
	return append(out, l.arguments...)
}

// path is the command so far, as a person typed it.
func (l *line) path() string {
	words := []string{l.program}
	for _, lv := range l.levels[1:] {
		words = append(words, lv.name)
	}
	return strings.Join(words, " ")
}

func (l *line) usage(message, hint string) *UsageError {
	return &UsageError{Command: l.path(), Message: message, Hint: hint}
}
