package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func newVersionCmd(a *app) *cobra.Command {
	var o outputFlags
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version string `json:"version"`
				Go      string `json:"go"`
				OS      string `json:"os"`
				Arch    string `json:"arch"`
			}{version, runtime.Version(), runtime.GOOS, runtime.GOARCH}
			switch o.format {
			case "table":
				_, err := fmt.Fprintf(a.stdout, "layerfs %s %s %s/%s\n", v.Version, v.Go, v.OS, v.Arch)
				return err
			case "json":
				return printJSON(a.stdout, v)
			}
			t, err := parseTemplate(o.format)
			if err != nil {
				return err
			}
			return printTemplate(a.stdout, t, v)
		},
	}
	o.add(cmd, "")
	return cmd
}
