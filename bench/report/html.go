package report

func (r *Report) HTML() ([]byte, error)     { return nil, nil }
func (r *Report) Markdown() ([]byte, error) { return nil, nil }
