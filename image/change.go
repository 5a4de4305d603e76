package image

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// ApplyChanges applies Dockerfile instructions to the config of an image, as `docker
// commit --change` and `docker import --change` do, and returns the result: CMD,
// ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and
// WORKDIR, in any case. Each change is one instruction or several lines of them; a line
// that ends in a backslash goes on in the next. Words follow the rules of the
// Dockerfile (https://docs.docker.com/reference/dockerfile/): quotes, backslashes, and
// variables of the image's own environment where the Dockerfile replaces them. An
// error wraps fs.ErrInvalid. c is not modified.
func ApplyChanges(c ProcessConfig, changes []string) (ProcessConfig, error) {
	text := strings.Join(changes, "\n")
	if len(text) > MaxChanges {
		return ProcessConfig{}, fmt.Errorf("changes of %d bytes, limit %d: %w", len(text), MaxChanges, fs.ErrInvalid)
	}
	e := changeEditor{config: c.clone()}
	for _, line := range logicalLines(text) {
		if err := e.apply(line); err != nil {
			return ProcessConfig{}, fmt.Errorf("change %.200q: %w", line, err)
		}
	}
	return e.config, nil
}

func (c ProcessConfig) clone() ProcessConfig {
	c.ExposedPorts = maps.Clone(c.ExposedPorts)
	c.Env = slices.Clone(c.Env)
	c.Entrypoint = slices.Clone(c.Entrypoint)
	c.Cmd = slices.Clone(c.Cmd)
	c.Volumes = maps.Clone(c.Volumes)
	c.Labels = maps.Clone(c.Labels)
	c.OnBuild = slices.Clone(c.OnBuild)
	c.Shell = slices.Clone(c.Shell)
	return c
}

// logicalLines joins continued lines, and drops empty ones and comments, also those
// between the parts of a continued line.
func logicalLines(text string) []string {
	var lines []string
	current := ""
	for line := range strings.SplitSeq(text, "\n") {
		trimmed := strings.TrimSpace(line)
		if strings.HasPrefix(trimmed, "#") || (trimmed == "" && current != "") {
			continue
		}
		part := strings.TrimRight(line, " \t\r")
		if current == "" {
			part = strings.TrimLeft(part, " \t")
		}
		// Two backslashes are one that is escaped, and go on with nothing.
		if rest, ok := strings.CutSuffix(part, `\`); ok && !strings.HasSuffix(rest, `\`) {
			current += rest
			continue
		}
		if current += part; current != "" {
			lines = append(lines, current)
		}
		current = ""
	}
	if current = strings.TrimSpace(current); current != "" {
		lines = append(lines, current)
	}
	return lines
}

type changeEditor struct {
	config ProcessConfig
	cmdSet bool // by these changes
}

func (e *changeEditor) apply(line string) error {
	name, rest := cutSpace(line)
	name = strings.ToUpper(name)
	flags, rest, err := cutFlags(rest)
	if err != nil {
		return err
	}
	if len(flags) > 0 && name != "HEALTHCHECK" {
		return invalid("%s has no flag %s", name, flags[0])
	}
	if rest == "" {
		return invalid("%s wants an argument", name)
	}
	switch name {
	case "CMD":
		return e.cmd(rest)
	case "ENTRYPOINT":
		return e.entrypoint(rest)
	case "ENV":
		return e.env(rest)
	case "EXPOSE":
		return e.expose(rest)
	case "HEALTHCHECK":
		return e.healthcheck(flags, rest)
	case "LABEL":
		return e.label(rest)
	case "ONBUILD":
		return e.onbuild(rest)
	case "STOPSIGNAL":
		return e.stopSignal(rest)
	case "USER":
		return e.set(&e.config.User, rest)
	case "VOLUME":
		return e.volume(rest)
	case "WORKDIR":
		return e.workdir(rest)
	}
	return invalid("%s is no instruction for a change; there are CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR", name)
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, fs.ErrInvalid)...)
}

// cutSpace cuts a line after its first word.
func cutSpace(s string) (word, rest string) {
	s = strings.TrimSpace(s)
	i := strings.IndexFunc(s, unicode.IsSpace)
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimSpace(s[i:])
}

// cutFlags takes the "--name=value" words from the front; "--" ends them.
func cutFlags(s string) (flags []string, rest string, err error) {
	rest = s
	for strings.HasPrefix(rest, "--") {
		var flag string
		flag, rest = cutSpace(rest)
		if flag == "--" {
			break
		}
		if strings.ContainsAny(flag, `"'\`) {
			return nil, "", invalid("flag %s holds a quote", flag)
		}
		flags = append(flags, flag)
	}
	return flags, rest, nil
}

// command reads the exec form, a JSON list of strings, or the shell form, which is
// everything else, and says which it was.
func (e *changeEditor) command(rest string) (args Args, exec bool, err error) {
	list, isList, err := jsonList(rest)
	if err != nil {
		return nil, false, err
	}
	if isList {
		return list, true, nil
	}
	shell := e.config.Shell
	if len(shell) == 0 {
		shell = Args{"/bin/sh", "-c"}
	}
	return append(slices.Clone(shell), rest), false, nil
}

// jsonList reads a JSON list of strings. What is no JSON list at all is no error, a
// list of anything else than strings is one.
func jsonList(s string) (list []string, ok bool, err error) {
	if !strings.HasPrefix(s, "[") {
		return nil, false, nil
	}
	if !json.Valid([]byte(s)) {
		return nil, false, nil
	}
	var values []any
	if err := json.Unmarshal([]byte(s), &values); err != nil {
		return nil, false, fmt.Errorf("a list in JSON form: %w: %w", err, fs.ErrInvalid)
	}
	list = make([]string, 0, len(values))
	for _, v := range values {
		word, ok := v.(string)
		if !ok {
			return nil, false, invalid("a list in JSON form must be of strings only")
		}
		list = append(list, word)
	}
	return list, true, nil
}

func (e *changeEditor) cmd(rest string) error {
	args, exec, err := e.command(rest)
	if err != nil {
		return err
	}
	e.config.Cmd, e.config.ArgsEscaped = args, false
	if len(args) == 0 {
		e.config.Cmd = nil
	}
	e.cmdSet = e.cmdSet || !exec || len(args) > 0
	return nil
}

// entrypoint also ends a CMD that these changes did not set: it was meant for the
// entrypoint that is replaced.
func (e *changeEditor) entrypoint(rest string) error {
	args, _, err := e.command(rest)
	if err != nil {
		return err
	}
	e.config.Entrypoint = args
	if len(args) == 0 {
		e.config.Entrypoint = nil
	}
	if !e.cmdSet {
		e.config.Cmd = nil
	}
	return nil
}

func (e *changeEditor) env(rest string) error {
	pairs, err := e.pairs("ENV", rest)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		entry := p.key + "=" + p.value
		i := slices.IndexFunc(e.config.Env, func(old string) bool {
			k, _, _ := strings.Cut(old, "=")
			return k == p.key
		})
		if i >= 0 {
			e.config.Env[i] = entry
		} else {
			e.config.Env = append(e.config.Env, entry)
		}
	}
	return nil
}

func (e *changeEditor) label(rest string) error {
	pairs, err := e.pairs("LABEL", rest)
	if err != nil {
		return err
	}
	if e.config.Labels == nil {
		e.config.Labels = make(map[string]string)
	}
	for _, p := range pairs {
		e.config.Labels[p.key] = p.value
	}
	return nil
}

type pair struct{ key, value string }

// pairs reads "key=value …" or the old form "key the whole rest". All variables are
// those from before the instruction.
func (e *changeEditor) pairs(name, rest string) ([]pair, error) {
	words := splitWords(rest)
	if len(words) == 0 {
		return nil, invalid("%s wants an argument", name)
	}
	var raw []pair
	if !strings.Contains(words[0], "=") {
		key, value := cutSpace(rest)
		if value == "" {
			return nil, invalid("%s wants key=value", name)
		}
		raw = []pair{{key, value}}
	} else {
		for _, w := range words {
			key, value, ok := strings.Cut(w, "=")
			if !ok {
				return nil, invalid("%q is not of the form key=value", w)
			}
			raw = append(raw, pair{key, value})
		}
	}
	for i := range raw {
		var err error
		if raw[i].key, err = expandWord(raw[i].key, e.config.Env); err != nil {
			return nil, err
		}
		if raw[i].value, err = expandWord(raw[i].value, e.config.Env); err != nil {
			return nil, err
		}
		if raw[i].key == "" {
			return nil, invalid("%s has an empty key", name)
		}
	}
	return raw, nil
}

func (e *changeEditor) onbuild(rest string) error {
	trigger, _ := cutSpace(rest)
	switch trigger = strings.ToUpper(trigger); trigger {
	case "ONBUILD", "FROM", "MAINTAINER":
		return invalid("%s is not allowed in ONBUILD", trigger)
	}
	e.config.OnBuild = append(e.config.OnBuild, rest)
	return nil
}

// set replaces a field that is one word or several, with quotes and variables.
func (e *changeEditor) set(field *string, rest string) error {
	value, err := expandWord(rest, e.config.Env)
	if err == nil {
		*field = value
	}
	return err
}

func (e *changeEditor) volume(rest string) error {
	list, ok, err := jsonList(rest)
	if err != nil {
		return err
	}
	if !ok {
		list = strings.Fields(rest)
	}
	if len(list) == 0 {
		return invalid("VOLUME wants an argument")
	}
	if e.config.Volumes == nil {
		e.config.Volumes = make(map[string]struct{})
	}
	for _, v := range list {
		if v, err = expandWord(v, e.config.Env); err != nil {
			return err
		}
		if v = strings.TrimSpace(v); v == "" {
			return invalid("VOLUME is an empty path")
		}
		e.config.Volumes[v] = struct{}{}
	}
	return nil
}

// workdir is relative to the one before, as in a Dockerfile.
func (e *changeEditor) workdir(rest string) error {
	dir, err := expandWord(rest, e.config.Env)
	if err != nil {
		return err
	}
	if dir == "" {
		return invalid("WORKDIR is an empty path")
	}
	if !path.IsAbs(dir) {
		dir = path.Join("/", e.config.WorkingDir, dir)
	}
	e.config.WorkingDir = dir
	return nil
}

func (e *changeEditor) expose(rest string) error {
	words, err := expandWords(rest, e.config.Env)
	if err != nil {
		return err
	}
	if e.config.ExposedPorts == nil {
		e.config.ExposedPorts = make(map[string]struct{})
	}
	n := 0
	for _, w := range words {
		first, last, proto, err := parsePorts(w)
		if err != nil {
			return err
		}
		if n += last - first + 1; n > MaxPorts {
			return invalid("more than %d ports", MaxPorts)
		}
		for p := first; p <= last; p++ {
			e.config.ExposedPorts[strconv.Itoa(p)+"/"+proto] = struct{}{}
		}
	}
	return nil
}
