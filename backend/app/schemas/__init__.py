"""What crosses a border: events, messages, errors. Knows neither database nor web framework."""
