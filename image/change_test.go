package image

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func ports(names ...string) map[string]struct{} {
	m := map[string]struct{}{}
	for _, n := range names {
		m[n] = struct{}{}
	}
	return m
}

func TestApplyChanges(t *testing.T) {
	base := ProcessConfig{
		Env: []string{"PATH=/bin", "HOME=/root", "EMPTY="}, Cmd: Args{"old"}, Entrypoint: Args{"/old"},
		WorkingDir: "/srv", Labels: map[string]string{"old": "1"},
	}
	for _, c := range []struct {
		change string
		want   func(*ProcessConfig)
	}{
		{`CMD ["a", "b c"]`, func(p *ProcessConfig) { p.Cmd = Args{"a", "b c"} }},
		{`cmd echo "hi  $HOME"`, func(p *ProcessConfig) { p.Cmd = Args{"/bin/sh", "-c", `echo "hi  $HOME"`} }},
		{`CMD []`, func(p *ProcessConfig) { p.Cmd = nil }},
		{`CMD ['a']`, func(p *ProcessConfig) { p.Cmd = Args{"/bin/sh", "-c", `['a']`} }},
		{`CMD [ "a" ] b`, func(p *ProcessConfig) { p.Cmd = Args{"/bin/sh", "-c", `[ "a" ] b`} }},
		{`ENTRYPOINT ["/e"]`, func(p *ProcessConfig) { p.Entrypoint, p.Cmd = Args{"/e"}, nil }},
		{"CMD [\"x\"]\nENTRYPOINT [\"/e\"]", func(p *ProcessConfig) { p.Entrypoint, p.Cmd = Args{"/e"}, Args{"x"} }},
		{"CMD []\nENTRYPOINT /e", func(p *ProcessConfig) { p.Entrypoint, p.Cmd = Args{"/bin/sh", "-c", "/e"}, nil }},
		{`ENTRYPOINT []`, func(p *ProcessConfig) { p.Entrypoint, p.Cmd = nil, nil }},
		{`ENV A=1`, func(p *ProcessConfig) { p.Env = append(p.Env, "A=1") }},
		{`ENV PATH=$PATH:/x`, func(p *ProcessConfig) { p.Env[0] = "PATH=/bin:/x" }},
		{`ENV PATH="${PATH}:/x y" B='$PATH' C=a\ b D="\$PATH \"q\" \n" E=`, func(p *ProcessConfig) {
			p.Env[0] = "PATH=/bin:/x y"
			p.Env = append(p.Env, "B=$PATH", "C=a b", `D=$PATH "q" \n`, "E=")
		}},
		{`ENV A=1 B=$A`, func(p *ProcessConfig) { p.Env = append(p.Env, "A=1", "B=") }},
		{"ENV A=1\nENV B=$A", func(p *ProcessConfig) { p.Env = append(p.Env, "A=1", "B=1") }},
		{`ENV A the whole  "rest" of $HOME`, func(p *ProcessConfig) { p.Env = append(p.Env, "A=the whole  rest of /root") }},
		{`ENV A=${NO:-x${HOME}y} B=${EMPTY-d} C=${EMPTY:-d} D=${HOME:+set} E=${NO+set} F=${NO-} G=${HOME?x}`, func(p *ProcessConfig) {
			p.Env = append(p.Env, "A=x/rooty", "B=", "C=d", "D=set", "E=", "F=", "G=/root")
		}},
		{`ENV A=$ B=$1a C=a$ D=$-x E=a"b"'c'd`, func(p *ProcessConfig) { p.Env = append(p.Env, "A=$", "B=a", "C=a$", "D=x", "E=abcd") }},
		{"ENV A=1 \\\n  # comment\n\n  B=2", func(p *ProcessConfig) { p.Env = append(p.Env, "A=1", "B=2") }},
		{`EXPOSE 80 53/UDP 8000-8002 127.0.0.1:81:82/tcp`, func(p *ProcessConfig) {
			p.ExposedPorts = ports("80/tcp", "53/udp", "8000/tcp", "8001/tcp", "8002/tcp", "82/tcp")
		}},
		{"ENV P=\"80 81\"\nEXPOSE $P", func(p *ProcessConfig) {
			p.Env, p.ExposedPorts = append(p.Env, "P=80 81"), ports("80/tcp", "81/tcp")
		}},
		{`LABEL a=1 "b c"="d $HOME" old=2`, func(p *ProcessConfig) {
			p.Labels = map[string]string{"a": "1", "b c": "d /root", "old": "2"}
		}},
		{`LABEL a b c`, func(p *ProcessConfig) { p.Labels = map[string]string{"old": "1", "a": "b c"} }},
		{`ONBUILD RUN echo "$HOME"`, func(p *ProcessConfig) { p.OnBuild = []string{`RUN echo "$HOME"`} }},
		{`USER $HOME:0`, func(p *ProcessConfig) { p.User = "/root:0" }},
		{`VOLUME ["/a b", "$HOME"]`, func(p *ProcessConfig) { p.Volumes = ports("/a b", "/root") }},
		{`VOLUME /a /b`, func(p *ProcessConfig) { p.Volumes = ports("/a", "/b") }},
		{`WORKDIR sub/../x`, func(p *ProcessConfig) { p.WorkingDir = "/srv/x" }},
		{"WORKDIR /a\nWORKDIR b", func(p *ProcessConfig) { p.WorkingDir = "/a/b" }},
		{`STOPSIGNAL SIGTERM`, func(p *ProcessConfig) { p.StopSignal = "SIGTERM" }},
		{`STOPSIGNAL RTMIN+3`, func(p *ProcessConfig) { p.StopSignal = "RTMIN+3" }},
		{`STOPSIGNAL 9`, func(p *ProcessConfig) { p.StopSignal = "9" }},
		{`HEALTHCHECK --interval=5s --retries=3 --timeout=1m CMD curl -f http://localhost`, func(p *ProcessConfig) {
			p.Healthcheck = &Healthcheck{Test: Args{"CMD-SHELL", "curl -f http://localhost"}, Interval: 5 * time.Second, Timeout: time.Minute, Retries: 3}
		}},
		{`HEALTHCHECK CMD ["a","b"]`, func(p *ProcessConfig) { p.Healthcheck = &Healthcheck{Test: Args{"CMD", "a", "b"}} }},
		{`HEALTHCHECK NONE`, func(p *ProcessConfig) { p.Healthcheck = &Healthcheck{Test: Args{"NONE"}} }},
		{"ENV A=x\\\\\nENV B=2", func(p *ProcessConfig) { p.Env = append(p.Env, `A=x\`, "B=2") }},
		{"# nothing\n\n", func(*ProcessConfig) {}},
	} {
		before := base.clone()
		got, err := ApplyChanges(base, []string{c.change})
		if err != nil {
			t.Errorf("%q: %v", c.change, err)
			continue
		}
		want := base.clone()
		c.want(&want)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q:\n got %+v\nwant %+v", c.change, got, want)
		}
		if !reflect.DeepEqual(base, before) {
			t.Fatalf("%q modified its argument", c.change)
		}
	}
	withShell := ProcessConfig{Shell: Args{"/bin/bash", "-c"}}
	if got, err := ApplyChanges(withShell, []string{"CMD x"}); err != nil || !slices.Equal(got.Cmd, Args{"/bin/bash", "-c", "x"}) {
		t.Error(got, err)
	}
}

func TestApplyChangesRefuses(t *testing.T) {
	for _, change := range []string{
		"RUN x", "FROM x", "COPY a b", "SHELL [\"x\"]", "nonsense", "CMD", "ENV", "ENV A", "ENV =1", "ENV A=1 B", `ENV A="x`, `ENV A='x`,
		"LABEL", "LABEL a", `LABEL ""=1`, "ENV A=${", "ENV A=${}", "ENV A=${A", "ENV A=${A:", "ENV A=${A:-", "ENV A=${A:-x", "ENV A=${A:}", "ENV A=${A#x}", "ENV A=${:x}", "ENV A=${A?}", "ENV A=${A:?message}",
		"EXPOSE x", "EXPOSE 65536", "EXPOSE -1", "EXPOSE 2-1", "EXPOSE 80/icmp", "EXPOSE 80-", "EXPOSE 0-65535 1", "EXPOSE 80/",
		"ONBUILD ONBUILD RUN x", "ONBUILD FROM x", "ONBUILD maintainer x", "ONBUILD",
		"USER", "VOLUME", "VOLUME []", `VOLUME [""]`, `VOLUME [1]`, "VOLUME $NO", "WORKDIR", "WORKDIR $NO", `CMD ["a", 1]`, "CMD --x y",
		"STOPSIGNAL SIGNOPE", "STOPSIGNAL 0", "STOPSIGNAL 65", "STOPSIGNAL RTMIN-1", "STOPSIGNAL RTMIN+", "STOPSIGNAL RTMIN+31",
		"HEALTHCHECK", "HEALTHCHECK NONE x", "HEALTHCHECK x", "HEALTHCHECK CMD", "HEALTHCHECK CMD []", "HEALTHCHECK --interval CMD x", "HEALTHCHECK --interval=1us CMD x", "HEALTHCHECK --retries=-1 CMD x", "HEALTHCHECK --nope=1 CMD x",
		"ENV A=" + strings.Repeat("x", MaxChanges),
		"ENV A=" + strings.Repeat("${a:-", maxNesting+1) + strings.Repeat("}", maxNesting+1),
	} {
		if got, err := ApplyChanges(ProcessConfig{}, []string{change}); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%.100q: %+v, %v", change, got, err)
		}
	}
	bomb := ProcessConfig{Env: []string{"A=" + strings.Repeat("x", 1<<20)}}
	for _, change := range []string{"ENV B=" + strings.Repeat("$A", 100), `ENV B="` + strings.Repeat("$A", 100) + `"`, "EXPOSE " + strings.Repeat("$A ", 100)} {
		if _, err := ApplyChanges(bomb, []string{change}); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%.20q: %v", change, err)
		}
	}
	if _, err := ApplyChanges(ProcessConfig{}, []string{"EXPOSE 0-65535"}); err != nil {
		t.Error(err)
	}
	nested := "ENV A=" + strings.Repeat("${a:-", maxNesting) + strings.Repeat("}", maxNesting)
	if _, err := ApplyChanges(ProcessConfig{}, []string{nested}); err != nil {
		t.Error(err)
	}
}

func FuzzApplyChanges(f *testing.F) {
	for _, s := range []string{
		`CMD ["a"]`, "ENV A=${B:-c} D='e' F=\"g\\\"\"", "EXPOSE 1-3/udp", "LABEL a b", "HEALTHCHECK --interval=1s CMD x", "WORKDIR a\\\nb", "VOLUME [\"/a\"]", "ENV A=\\", "ENV A=$", "ENV A=${\xff}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		base := ProcessConfig{Env: []string{"A=1", "B=x y"}}
		got, err := ApplyChanges(base, []string{s})
		if err != nil {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		for _, e := range got.Env {
			if k, _, ok := strings.Cut(e, "="); !ok || k == "" {
				t.Fatalf("%q: entry %q", s, e)
			}
		}
		for p := range maps.Keys(got.ExposedPorts) {
			var n int
			var proto string
			if _, err := fmt.Sscanf(p, "%d/%s", &n, &proto); err != nil || n < 0 || n > 65535 {
				t.Fatalf("%q: port %q", s, p)
			}
		}
	})
}
