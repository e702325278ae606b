from books.models import Author, Book
from django import forms
from django.contrib import messages
from django.db import transaction
from django.db.models import Count
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import condition, require_POST
from django.views.generic import DetailView, ListView


class Books(ListView):
    model = Book
    paginate_by = 5


class OneBook(DetailView):
    model = Book


class Question(forms.Form):
    mail = forms.EmailField()
    text = forms.CharField(widget=forms.Textarea, min_length=10)
    file = forms.FileField(required=False)


def ask(request):
    form = Question(request.POST or None, request.FILES or None)
    if form.is_valid():
        size = form.cleaned_data["file"].size if form.cleaned_data["file"] else 0
        messages.success(request, _("Thank you.") + f" {size}")
        return redirect("books")
    return render(request, "books/ask.html", {"form": form})


def titles(request):
    return StreamingHttpResponse((f"{book}\n" for book in Book.objects.iterator()), content_type="text/plain")


@condition(etag_func=lambda request: f'"{Book.objects.count()}"')
def titles_json(request):
    authors = Author.objects.annotate(count=Count("books")).values("name", "count")
    return JsonResponse({"books": list(Book.objects.values_list("title", flat=True)), "authors": list(authors)})


@csrf_exempt
@require_POST
def add(request):
    """Said after the transaction was committed."""
    with transaction.atomic():
        author, _made = Author.objects.get_or_create(name=request.POST["author"])
        Book.objects.create(title=request.POST["title"], author=author)
    return HttpResponse("kept", status=201)


def about(request):
    count = Book.objects.count()
    return HttpResponse(_("Thank you.") + " " + ngettext("%d book", "%d books", count) % count)
