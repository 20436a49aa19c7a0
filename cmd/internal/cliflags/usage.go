package cliflags

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// Exit statuses of Main.
const (
	ExitOK     = 0
	ExitFailed = 1 // failed or refused
	ExitUsage  = 2 // the command line was wrong
)

// UsageError is a command line that cannot be obeyed. Its exit status is ExitUsage.
type UsageError struct {
	Command string // as typed: "picket up"
	Message string // what is wrong
	Hint    string // what was probably meant; may be empty
}

func (e *UsageError) Error() string {
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + ": " + e.Hint
}

// ExitCode makes it a cli.ExitCoder.
func (e *UsageError) ExitCode() int { return ExitUsage }

// Usage makes a *UsageError for the command that runs in c.
func Usage(c *cli.Context, format string, a ...any) error {
	return &UsageError{Command: commandName(c), Message: fmt.Sprintf(format, a...)}
}

// NArgs refuses a number of arguments outside min to max; what names them in the message ("NAME").
func NArgs(c *cli.Context, min, max int, what string) error {
	switch n := c.Args().Len(); {
	case n < min:
		return Usage(c, "%s is missing", what)
	case n > max && max == 0:
		return Usage(c, "%q is one word too many: this command takes no arguments", c.Args().Get(0))
	case n > max:
		return Usage(c, "%q is one word too many: this command takes %s only", c.Args().Get(max), what)
	}
	return nil
}

// commandName is the command with its groups. (The library's HelpName leaves out the groups.)
func commandName(c *cli.Context) string {
	var words []string
	for _, at := range c.Lineage() {
		if at.Command != nil && at.Command.Name != "" && at.Command.Name != c.App.Name {
			words = append(words, at.Command.Name)
		}
	}
	slices.Reverse(words)
	return strings.Join(append([]string{c.App.Name}, words...), " ")
}

// Main runs app on args (args[0] is the program) and returns the exit status. An error is printed to app.ErrWriter as
// "NAME: sentence"; one with an ExitCode method chooses the status, any other is ExitFailed. Main sets the app's error handlers.
func Main(ctx context.Context, app *cli.App, args []string) int {
	app.ExitErrHandler = func(*cli.Context, error) {} // the library would end the process in the middle of ours
	app.OnUsageError = onUsage
	handleUsage(app.Commands)
	setCompletion(app)
	arranged, err := Arrange(app, args)
	if err == nil {
		err = app.RunContext(ctx, arranged)
	}
	if err == nil {
		return ExitOK
	}
	return report(app, err)
}

func report(app *cli.App, err error) int {
	if message := err.Error(); message != "" {
		fmt.Fprintf(app.ErrWriter, "%s: %s\n", app.Name, message)
	}
	var usage *UsageError
	if errors.As(err, &usage) {
		fmt.Fprintf(app.ErrWriter, "See '%s --help'.\n", usage.Command)
	}
	var coder cli.ExitCoder
	if errors.As(err, &coder) {
		return coder.ExitCode()
	}
	return ExitFailed
}

func handleUsage(commands []*cli.Command) {
	for _, c := range commands {
		c.OnUsageError = onUsage
		handleUsage(c.Subcommands)
	}
}

// invalidValue is how the flag package complains of a value of the wrong kind.
var invalidValue = regexp.MustCompile(`^invalid value (".*") for flag (-[^ :]+): `)

// onUsage turns a complaint of the flag package into ours.
func onUsage(c *cli.Context, err error, _ bool) error {
	message := strings.ReplaceAll(err.Error(), "\n", " ")
	if m := invalidValue.FindStringSubmatch(message); m != nil {
		dash := ""
		if len(m[2]) > len("-c") {
			dash = "-"
		}
		message = fmt.Sprintf("%s%s cannot be %s", dash, m[2], m[1])
	}
	return &UsageError{Command: commandName(c), Message: message}
}

func (l *line) unknownFlag(word, name string) error {
	var names []string
	for _, lv := range l.levels {
		for _, f := range lv.flags {
			names = append(names, f.Names()...)
		}
	}
	shown, _, _ := strings.Cut(word, "=") // a value may be a secret
	hint := ""
	if near := nearest(name, names); near != "" {
		hint = "did you mean --" + near + "?"
	}
	return l.usage(fmt.Sprintf("unknown flag %q", shown), hint)
}

func (l *line) unknownCommand(word string) error {
	var names []string
	for _, c := range l.levels[len(l.levels)-1].commands {
		if !c.Hidden {
			names = append(names, c.Names()...)
		}
	}
	hint := ""
	if near := nearest(word, names); near != "" {
		hint = "did you mean " + near + "?"
	}
	return l.usage(fmt.Sprintf("unknown command %q", word), hint)
}

// nearest returns the name at most two edits, and less than half its length, away from word; "" when there is none.
func nearest(word string, names []string) string {
	best, bestAt := "", 3
	for _, n := range names {
		if d := edits(word, n); d < bestAt && 2*d < len(n) {
			best, bestAt = n, d
		}
	}
	return best
}

// edits is the Levenshtein distance, in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
