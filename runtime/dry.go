package runtime

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
)

// Plan returns what [Start] would do, one line for each step of the process that becomes
// the container, in order, without doing any of it: the namespaces that it is made in,
// then the rows of its table. What would be refused is refused, but for what only shows
// when a step is tried.
func Plan(ctx context.Context, c Config) ([]string, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("plan container: %w", context.Cause(ctx))
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	const nowhere = -1
	p, err := makePlan(&c, nowhere, true)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range joinable {
		if p.cloneFlags()&uint64(n.flag) != 0 {
			names = append(names, n.name)
		}
	}
	lines := []string{"create the process in new namespaces: " + strings.Join(names, " ")}
	if p.cgroup >= 0 {
		lines[0] += ", in its cgroup"
	}
	for _, s := range p.table.steps {
		line := s.what
		if s.object != "" {
			line += " " + s.object
		}
		lines = append(lines, line)
	}
	return lines, p.close()
}
