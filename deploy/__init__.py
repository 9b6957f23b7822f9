"""Production image, Helm chart and their tools."""
