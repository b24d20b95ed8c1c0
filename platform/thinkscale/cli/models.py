"""Commands about one model: served, or looked at before it is paid for."""

import click

from thinkscale.cli.options import ADDRESS, JSON, cli


@cli.command()
@click.argument("model")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting of the service, as "
              "serve.engine=vllm, model.format=s1, name=mine, max_replicas=4, min_replicas=0.")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option("--root", default="runs", show_default=True, help="Where a campaign lies that is given by name.")
@click.option("--route", default="/", show_default=True, help="Prefix of the paths, for several on one cluster.")
@ADDRESS
def serve(
    model: str, overrides: tuple[str, ...], host: str, port: int, root: str, route: str, address: str | None
) -> None:
    """Serve MODEL with OpenAI's HTTP interface and thinking budgets: a reference, or the campaign that trained it."""
    from thinkscale.store.artifact import Artifact
    from thinkscale.store.campaigns import load_service
    from thinkscale.store.filesystem import Store
    from thinkscale.store.models import local_model

    if "/" not in model and Artifact(Store(root), f"{model}/model").manifest() is not None:
        model, overrides = f"{root}/{model}", (f'name="{model}"', *overrides)
    service = load_service(model, overrides)
    local_model(service.model.base, weights=False)  # whatever is wrong with it is told at once
    from thinkscale.server.service import serve as serve_model

    serve_model(service, host=host, port=port, route=route, address=address, say=click.echo)


@cli.group("model")
def model_group() -> None:
    """Models: what is known of one before it is paid for."""


@model_group.command("check")
@click.argument("reference")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting of [model], as "
              "model.format=think.")  # fmt: skip
@JSON
def model_check(reference: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check tokenizer, template, thinking format and training support of the model REFERENCE; needs no weights."""
    import json

    from thinkscale.report.model_check import check_model
    from thinkscale.store.campaigns import load_service
    from thinkscale.store.models import local_model

    found = check_model(load_service(reference, overrides).model, local_model(reference, weights=False))
    lines = (f"{name:<30}{json.dumps(value, ensure_ascii=False)}" for name, value in found.items())
    click.echo(json.dumps(found, ensure_ascii=False) if as_json else "\n".join(lines))
