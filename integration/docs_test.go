package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// entry is a line of YAML that is no text of a block: a key, with or without a value, or an item of a list.
var entry = regexp.MustCompile(`^( *)(- )?([A-Za-z_][A-Za-z0-9_-]*:( .*)?|- .+|[^ :-].*)$`)

// TestGitopsExamples looks at the shape of the CI files that docs/gitops.md offers for copying, and that they run what they must.
func TestGitopsExamples(t *testing.T) {
	text, err := os.ReadFile("../docs/gitops.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, part := range strings.Split(string(text), "```yaml\n")[1:] {
		block, _, _ := strings.Cut(part, "```")
		blocks = append(blocks, block)
	}
	if len(blocks) != 2 {
		t.Fatalf("%d YAML blocks, want one for GitHub and one for GitLab", len(blocks))
	}
	for _, b := range blocks {
		checkYAML(t, b)
		for _, want := range []string{"picket acl check --format ", `picket acl test --coordinator "$PICKET_COORDINATOR" policy.hujson`, `picket acl diff --coordinator "$PICKET_COORDINATOR" --format markdown policy.hujson`, `test "$status" = 3`} {
			if !strings.Contains(b, want) {
				t.Errorf("an example does not run %q", want)
			}
		}
	}
	for _, unsafe := range []string{"on: pull_request_target", "$PICKET_TOKEN", "${{ github.event.pull_request.title", "${{ github.head_ref"} {
		if strings.Contains(strings.Join(blocks, ""), unsafe) {
			t.Errorf("an example has %q, by which a stranger runs code, or a command line shows a secret", unsafe)
		}
	}
}

// TestContainersExample looks at the shape of the Kubernetes example of docs/containers.md, and that what it and the Dockerfile put into the
// environment is read.
func TestContainersExample(t *testing.T) {
	text, err := os.ReadFile("../docs/containers.md")
	if err != nil {
		t.Fatal(err)
	}
	dockerfile, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(text), "```yaml\n")
	if len(parts) != 2 {
		t.Fatalf("%d YAML blocks, want one", len(parts)-1)
	}
	block, _, _ := strings.Cut(parts[1], "```")
	checkYAML(t, block)
	help, err := exec.Command(filepath.Join(programs, "picket"), "run", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	known := string(help) + " PICKET_AUTH_KEY " // which no flag has
	for _, name := range regexp.MustCompile(`PICKET_[A-Z_]+`).FindAllString(string(text)+string(dockerfile), -1) {
		if !regexp.MustCompile(name + `\b`).MatchString(known) {
			t.Errorf("%s is read by nobody", name)
		}
	}
	for _, m := range regexp.MustCompile(`picket run((?: --[a-z0-9-]+)+)|"run", ("--[^]]*)`).FindAllString(string(text), -1) {
		for _, flag := range regexp.MustCompile(`--[a-z0-9-]+`).FindAllString(m, -1) {
			if !strings.Contains(string(help), flag+" ") {
				t.Errorf("picket run has no %s", flag)
			}
		}
	}
}

// checkYAML knows the little YAML that the examples use: two spaces a level, keys, lists, and blocks of text.
func checkYAML(t *testing.T, block string) {
	t.Helper()
	inText := -1 // the indentation of the line that opened a block of text
	for line := range strings.Lines(block) {
		line = strings.TrimRight(line, "\n")
		indent := len(line) - len(strings.TrimLeft(line, " "))
		switch {
		case strings.ContainsAny(line, "\t") || line != strings.TrimRight(line, " "):
			t.Errorf("tabs or trailing spaces: %q", line)
		case line == "" || strings.HasPrefix(line, "#"):
		case inText >= 0 && indent > inText:
		default:
			if inText = -1; strings.HasSuffix(line, " |") || strings.HasSuffix(line, " >-") {
				inText = indent
			}
			if indent%2 != 0 || !entry.MatchString(line) {
				t.Errorf("no YAML: %q", line)
			}
		}
	}
}

// TestEmbedExamples holds the Go lines of the guides to be lines of examples, which are compiled.
func TestEmbedExamples(t *testing.T) {
	have := map[string]bool{}
	for _, file := range []string{"../picket/example_test.go", "../picket/examples/greeter/main.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			have[strings.TrimSpace(line)] = true
		}
	}
	for _, file := range []string{"../README.md", "../docs/embed.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		blocks := strings.Split(string(text), "```go\n")[1:]
		if len(blocks) == 0 {
			t.Errorf("%s has no Go in it", file)
		}
		for _, block := range blocks {
			block, _, _ = strings.Cut(block, "```")
			for line := range strings.Lines(block) {
				if line = strings.TrimSpace(line); !have[line] {
					t.Errorf("%s has a line that is in no example: %s", file, line)
				}
			}
		}
	}
}
