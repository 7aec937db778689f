package tour

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// patience is how long a command may fail, or run: the first one that needs
	// the program may have to wait until it is built.
	patience = 4 * time.Minute
	pause    = 200 * time.Millisecond
	// farewell is how long what runs in the background may take to stop.
	farewell = 15 * time.Second

	// timedOut is curl's exit status when --max-time is over.
	timedOut = 28
)

// Run runs the steps in directory. Its error names the first one that fails. logs
// is a directory for what commands print beside their standard output.
func Run(ctx context.Context, steps []Step, directory, logs string) error {
	shell, err := open(directory, logs)
	if err != nil {
		return err
	}
	defer shell.close()
	for _, step := range steps {
		if err := shell.run(ctx, step); err != nil {
			return fmt.Errorf("line %d: %s\n%w", step.Line, step.Command, err)
		}
	}
	return nil
}

// shell is one bash that is given commands on its standard input.
type shell struct {
	command *exec.Cmd
	input   io.WriteCloser
	output  *bufio.Reader
	logs    string
	mark    string // stands before the exit status of a command
	steps   int
}

func open(directory, logs string) (*shell, error) {
	s := &shell{command: exec.Command("bash", "--norc", "--noprofile"), logs: logs, mark: rand.Text()}
	s.command.Dir = directory
	s.command.Env = environ()
	// With a group of its own, all that it started can be ended.
	s.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if s.input, err = s.command.StdinPipe(); err != nil {
		return nil, err
	}
	output, err := s.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.output = bufio.NewReader(output)
	return s, s.command.Start()
}

// environ is the environment of a reader: without settings of the program, and
// without what make tells a make that it runs.
func environ() []string {
	var kept []string
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, "NODESMETADATA_") && !strings.HasPrefix(name, "MAKE") && name != "MFLAGS" {
			kept = append(kept, variable)
		}
	}
	return kept
}

func (s *shell) run(ctx context.Context, step Step) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// A command that hangs ends with the shell.
	unbind := context.AfterFunc(ctx, s.kill)
	defer unbind()
	for {
		got, status, err := s.once(step)
		if err != nil {
			return fmt.Errorf("it took longer than %v, or ended the shell: %w\n%s", patience, err, s.log())
		}
		fine := status == 0 || status == timedOut && strings.Contains(step.Command, "--max-time")
		if fine && step.Matches(got) {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		if deadline, _ := ctx.Deadline(); time.Until(deadline) < patience/2 || ctx.Err() != nil {
			return fmt.Errorf("it exits with %d and prints\n%s\ninstead of\n%s\nand to standard error\n%s",
				status, got, strings.Join(step.Output, "\n"), s.log())
		}
	}
}

// once gives a command to the shell, and what came of it.
func (s *shell) once(step Step) (output string, status int, err error) {
	s.steps++
	command := step.Command
	redirect := " </dev/null 2>" + quote(s.logPath())
	if step.Background {
		command = strings.TrimSuffix(command, " &")
		redirect += " >&2 &"
	}
	// The brackets stand in lines of their own, so that a comment ends before.
	if _, err := fmt.Fprintf(s.input, "{\n%s\n}%s\nprintf '\\n%%s %%d\\n' %s $?\n", command, redirect, s.mark); err != nil {
		return "", 0, err
	}
	var all strings.Builder
	for {
		line, err := s.output.ReadString('\n')
		if err != nil {
			return "", 0, err
		}
		if rest, marked := strings.CutPrefix(line, s.mark+" "); marked {
			status, err := strconv.Atoi(strings.TrimSpace(rest))
			return strings.TrimSuffix(all.String(), "\n"), status, err
		}
		all.WriteString(line)
	}
}

func (s *shell) logPath() string { return filepath.Join(s.logs, fmt.Sprintf("step-%d.log", s.steps)) }

// log is what the last command printed to its standard error, and what those in
// the background have said.
func (s *shell) log() string {
	var all strings.Builder
	for n := range s.steps {
		content, err := os.ReadFile(filepath.Join(s.logs, fmt.Sprintf("step-%d.log", n+1)))
		if err == nil && len(content) > 0 && (n+1 == s.steps || len(content) > 1<<10) {
			fmt.Fprintf(&all, "… %s", content[max(0, len(content)-4<<10):])
		}
	}
	return all.String()
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (s *shell) kill() { _ = syscall.Kill(-s.command.Process.Pid, syscall.SIGKILL) }

// close ends the shell and all that runs in the background, and waits for that.
func (s *shell) close() {
	group := -s.command.Process.Pid
	_ = s.input.Close()
	_ = syscall.Kill(group, syscall.SIGTERM)
	// The group is there for as long as one of its processes is, and the shell,
	// its leader, is there until Wait.
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		_, _ = io.Copy(io.Discard, s.output)
		_ = s.command.Wait()
	}()
	deadline := time.Now().Add(farewell)
	for ; time.Now().Before(deadline); time.Sleep(pause / 10) {
		if syscall.Kill(group, 0) != nil {
			break
		}
	}
	s.kill()
	<-waited
}
